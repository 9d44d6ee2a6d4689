//! A model may be called as anything is, and so may its listeners.

macro_rules! models {
    ($($module:ident: $model:ident $event:ident $updated:ident;)*) => {
        $(
            mod $module {
                #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize, ::emitter_diesel::Emits)]
                #[emits(all)]
                pub struct $model {
                    id: i32,
                    name: ::std::string::String,
                    email: ::core::option::Option<i32>,
                    #[emits(skip)]
                    password_hash: ::std::string::String,
                }

                #[::emitter_diesel::listener(model = $model, where(name = "x", email = None), allow_remote)]
                async fn call(event: ::emitter_diesel::Event<$event>) {
                    ::core::mem::drop(event);
                }

                #[::emitter_diesel::listener(model = $model, changed(name), data(email = 1), retry(attempts = 2))]
                fn changed(event: ::emitter_diesel::Event<$updated>) -> ::core::result::Result<(), &'static str> {
                    ::core::mem::drop(event);
                    ::core::result::Result::Ok(())
                }
            }
        )*
    };
}

models! {
    event: Event EventEvent EventUpdated;
    option: Option OptionEvent OptionUpdated;
    result: Result ResultEvent ResultUpdated;
    string: String StringEvent StringUpdated;
    vec: Vec VecEvent VecUpdated;
    clone: Clone CloneEvent CloneUpdated;
    row: Row RowEvent RowUpdated;
    key: Key KeyEvent KeyUpdated;
    model: Model ModelEvent ModelUpdated;
    state: State StateEvent StateUpdated;
    context: Context ContextEvent ContextUpdated;
    created: Created CreatedEvent CreatedUpdated;
    diff: Diff DiffEvent DiffUpdated;
    columns: Columns ColumnsEvent ColumnsUpdated;
    operation: Operation OperationEvent OperationUpdated;
}

fn main() {
    assert_eq!(emitter_diesel::registry::Registration::all().count(), 30);
}
