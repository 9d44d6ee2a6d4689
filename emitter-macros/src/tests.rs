//! What the macros print, whole: each `.snap` is an expansion as the compiler sees it.

use proc_macro2::TokenStream;

/// The expansion as a file of Rust.
fn printed(expansion: TokenStream) -> String {
    let text = expansion.to_string();
    let file =
        syn::parse2(expansion).unwrap_or_else(|error| panic!("the expansion is no Rust: {error}\n{text}"));
    prettyplease::unparse(&file)
}

fn derive(input: &str) -> String {
    printed(crate::emits::derive(input.parse().expect("the test's input is made of tokens")))
}

fn listener(input: &str) -> String {
    let function: syn::ItemFn = syn::parse_str(input).expect("the test's input is a function");
    let [attribute] = &function.attrs[..] else { panic!("one attribute") };
    let options = match &attribute.meta {
        syn::Meta::List(list) => list.tokens.clone(),
        _ => TokenStream::new(),
    };
    let bare = syn::ItemFn { attrs: Vec::new(), ..function.clone() };
    let expansion = crate::listener::attribute(options, &quote::quote!(#bare));
    // But for one lint the function stays as it is; only the registration is of interest.
    let file: syn::File = syn::parse2(expansion).expect("the expansion is Rust");
    let [syn::Item::Fn(kept), registration @ ..] = &file.items[..] else {
        panic!("the function comes first")
    };
    let allowed = quote::quote!(#[allow(clippy::needless_pass_by_value, clippy::unused_async)] #bare);
    assert_eq!(quote::quote!(#kept).to_string(), allowed.to_string());
    printed(quote::quote!(#(#registration)*))
}

#[test]
fn a_minimal_model() {
    insta::assert_snapshot!(derive(
        "#[emits(crate = emitter_core, create)]
        struct User {
            id: i32,
        }"
    ));
}

#[test]
fn a_model_with_a_skipped_field_and_a_composite_key() {
    insta::assert_snapshot!(derive(
        r#"#[emits(crate = emitter_core, model = "grant", update, delete_many)]
        #[diesel(table_name = grants, primary_key(user_id, role))]
        #[serde(rename_all = "camelCase")]
        pub struct RoleGrant {
            /// Who.
            pub user_id: i32,
            #[serde(rename = "roleName")]
            pub role: String,
            #[emits(skip)]
            token: String,
        }"#
    ));
}

#[test]
fn a_model_that_says_how_it_travels_and_what_it_hides() {
    insta::assert_snapshot!(derive(
        r#"#[emits(
            crate = emitter_core, create, delete(qos = 2), qos = 0, remote, topic = "shop/users", expires = "1h",
            version = 3, earlier(UserV1, UserV2)
        )]
        struct User {
            id: i32,
            #[emits(hash)]
            email: String,
            #[emits(redact)]
            iban: Option<String>,
        }"#
    ));
}

#[test]
fn an_event_that_is_no_row() {
    insta::assert_snapshot!(derive(
        r#"#[emits(crate = emitter_core, event, topic = "auth/login_failed", qos = 2)]
        struct LoginFailed {
            username: String,
        }"#
    ));
}

#[test]
fn an_event_with_a_key_and_a_kind() {
    insta::assert_snapshot!(derive(
        r#"#[emits(crate = emitter_core, event, model = "orderPaid", kind = "order.paid", key(order_id))]
        struct OrderPaid<T> {
            order_id: i64,
            by: T,
        }"#
    ));
}

#[test]
fn a_generic_model() {
    insta::assert_snapshot!(derive(
        "#[emits(crate = emitter_core, update)]
        struct Record<T: Copy, const N: usize = 1>
        where
            T: Default,
        {
            id: T,
            #[emits(skip)]
            secret: [T; N],
        }"
    ));
}

#[test]
fn a_listener_with_filters_and_options() {
    insta::assert_snapshot!(listener(
        r#"#[listener(
            crate = emitter_core, model = User, name = "welcome", allow_remote,
            where(id = [1, 2], |row| row.active), data(status: "DRAFT" -> "ACTIVE", email), changed(email),
            enters(nickname = None), timeout = "5s", concurrency = 8, unordered, retry(attempts = 5, backoff = "1s")
        )]
        async fn welcome(context: Context, event: Event<UserUpdated>) {}"#
    ));
}

#[test]
fn an_async_listener_with_a_state() {
    insta::assert_snapshot!(listener(
        r#"#[listener(crate = emitter_core, model = "user", allow_remote)]
        async fn forget(event: Event<UserEvent>, cache: State<Cache>) -> Result<(), CacheError> {
            cache.remove(event.key()).await
        }"#
    ));
}

#[test]
fn a_plain_listener_of_remote_events() {
    insta::assert_snapshot!(listener(
        r#"#[listener(crate = emitter_core, model = "user", remote_only)]
        fn replicate(event: Event<UserUpdated>) {
            println!("{}", event.row.id);
        }"#
    ));
}

#[test]
fn an_async_listener_in_a_transaction() {
    insta::assert_snapshot!(listener(
        r#"#[listener(crate = emitter_diesel, model = "order", allow_remote)]
        async fn bill(event: Event<OrderCreated>, context: Context, mut tx: InboxTx<'_, AsyncPgConnection>) -> QueryResult<()> {
            Ok(())
        }"#
    ));
}

#[test]
fn mistakes() {
    insta::assert_snapshot!(derive(
        "#[emits(crate = emitter_core, craete, update)]
        struct User {
            id: i32,
            #[emits(skipp)]
            password_hash: String,
        }"
    ));
}

#[test]
fn mistakes_of_an_event() {
    insta::assert_snapshot!(derive(
        r#"#[emits(crate = emitter_core, event, all, before, kind = "")]
        struct LoginFailed {
            #[emits(redact)]
            ip_address: String,
            #[serde(skip)]
            note: String,
            password: String,
        }"#
    ));
}

/// The listener's expansion may hold one registration and nothing else that is named.
#[test]
fn a_listener_is_one_registration() {
    let expansion = listener(
        r#"#[listener(crate = emitter_core, model = "user")]
        async fn forget(a: State<A>, event: Event<UserEvent>, b: State<B>) {}"#,
    );
    assert_eq!(expansion.matches("submit!").count(), 1, "{expansion}");
    assert!(!expansion.contains("fn ") && !expansion.contains("impl "), "{expansion}");
}
