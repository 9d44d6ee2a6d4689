//! A struct for each table.

use std::collections::BTreeSet;
use std::fmt::Write;

use syn::{GenericArgument, PathArguments, Type};

use self::secrecy::looks_secret;
use super::table::{Column, Table};

// What the derive refuses.
#[path = "../../../../emitter-macros/src/emits/model/secrecy.rs"]
mod secrecy;

/// What the user chose.
pub(super) struct Choices<'c> {
    pub(super) emits: &'c str,
    pub(super) module: &'c str,
}

/// A struct.
pub(super) struct Model {
    pub(super) name: String,
    modules: Vec<String>,
    table: String,
    key: Vec<String>,
    fields: Vec<Field>,
    pub(super) findings: Vec<String>,
}

struct Field {
    name: String,
    ty: String,
    is_secret: bool,
}

/// What no model may be called, as what is written here says it.
const TAKEN: [&str; 6] = ["Option", "String", "Vec", "Emits", "Serialize", "Deserialize"];

/// What the derive calls its types, behind the model's name.
const MADE: [&str; 9] = [
    "Row",
    "Event",
    "Created",
    "CreatedMany",
    "Updated",
    "UpdatedMany",
    "Upserted",
    "Deleted",
    "DeletedMany",
];

/// A struct for each table, with names that do not meet.
pub(super) fn of(tables: &[&Table]) -> Vec<Model> {
    let mut models: Vec<Model> = tables.iter().map(|table| Model::of(table)).collect();
    let mut taken: BTreeSet<String> = TAKEN.iter().map(|name| (*name).to_owned()).collect();
    let mut shortest_first: Vec<&mut Model> = models.iter_mut().collect();
    // `users` has its `UserEvent` before `user_events` has.
    shortest_first.sort_by_key(|model| (model.modules.len(), model.name.len()));
    shortest_first.into_iter().for_each(|model| model.find_name(&mut taken));
    models
}

impl Model {
    fn of(table: &Table) -> Self {
        let Table { modules, name, key, columns } = table;
        let (path, mut findings) = (table.path(), Vec::new());
        let mut field = |Column { name: column, ty }: &Column| {
            let mut unknown = Vec::new();
            let ty = rust(ty, &mut unknown);
            findings.extend(unknown.iter().map(|unknown| {
                format!("{path}.{column}: which type of Rust is `{unknown}`? Put it in place of that")
            }));
            let (is_key, is_secret) = (key.contains(column), looks_secret(column));
            if is_secret {
                findings.push(match is_key {
                    true => format!(
                        "{path}.{column} is in the key, which every event tells, and its name says that it is secret: this does not \
                         compile before you give the model another key, or write `#[emits(sensitive_ok = \"why\")]` on it"
                    ),
                    false => {
                        format!("{path}.{column} is left out of events, as its name says that it is secret")
                    }
                });
            }
            Field { name: escaped(column), ty, is_secret: is_secret && !is_key }
        };
        let fields = columns.iter().map(&mut field).collect();
        let (modules, key) = (modules.clone(), key.clone());
        Self { name: singular(name), modules, table: name.clone(), key, fields, findings }
    }

    /// Calls it something that nothing else is called, nor made of.
    fn find_name(&mut self, taken: &mut BTreeSet<String>) {
        let all = |name: &str| -> Vec<String> {
            std::iter::once(&"").chain(&MADE).map(|end| format!("{name}{end}")).collect()
        };
        let wanted = self.name.clone();
        let modules: String = self.modules.iter().map(|module| pascal_case(module)).collect();
        let longer = format!("{modules}{wanted}");
        let numbered = (2..).map(|number: u32| format!("{longer}{number}"));
        let mut names = [wanted.clone(), longer.clone()].into_iter().chain(numbered);
        if let Some(free) = names.find(|name| all(name).iter().all(|made| !taken.contains(made))) {
            taken.extend(all(&free));
            self.name = free;
        }
        if self.name != wanted {
            let path: Vec<&str> = self.modules.iter().chain([&self.table]).map(String::as_str).collect();
            self.findings.push(format!(
                "{}: its model is called {}, for `{wanted}`, or what is made of that name, is something else already",
                path.join("::"),
                self.name
            ));
        }
    }

    /// The table as the model names it: one that is in a module of the schema's by its path, as there may be two of a name.
    fn table(&self, module: &str) -> String {
        let table = escaped(&self.table);
        if self.modules.is_empty() {
            return table;
        }
        let modules: Vec<String> = self.modules.iter().map(|module| escaped(module)).collect();
        format!("{module}::{}::{table}", modules.join("::"))
    }

    fn write(&self, text: &mut String, Choices { emits, module }: &Choices<'_>) {
        let Self { name, key, fields, .. } = self;
        let table = self.table(module);
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            text,
            "\n#[derive(\n    Debug, Clone, PartialEq, Serialize, Deserialize, Emits, Queryable, Selectable, Identifiable, Insertable,\n)]"
        );
        let key: Vec<String> = key.iter().map(|column| escaped(column)).collect();
        let key = if key == ["id"] { String::new() } else { format!(", primary_key({})", key.join(", ")) };
        let _ = writeln!(text, "#[diesel(table_name = {table}{key})]\n#[emits({emits})]");
        let _ = writeln!(text, "pub struct {name} {{");
        for Field { name, ty, is_secret } in fields {
            if *is_secret {
                text.push_str("    #[emits(skip)]\n");
            }
            let _ = writeln!(text, "    pub {name}: {ty},");
        }
        text.push_str("}\n");
    }
}

/// The whole file.
pub(super) fn file(models: &[Model], choices: &Choices<'_>) -> String {
    let imported = models.iter().filter(|model| model.modules.is_empty());
    let mut tables: Vec<String> = imported.map(|model| escaped(&model.table)).collect();
    tables.sort_unstable();
    let mut text = "//! The models of the application, each with its events. Made once by `emitter generate`: they are yours to change.\n\n\
         use diesel::prelude::*;\nuse emitter_diesel::Emits;\nuse serde::{Deserialize, Serialize};\n"
        .to_owned();
    if !tables.is_empty() {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "\nuse {}::{{{}}};", choices.module, tables.join(", "));
    }
    models.iter().for_each(|model| model.write(&mut text, choices));
    text
}

/// The type of Rust for one of SQL. One that nobody knows is left as it is, and noted.
fn rust(ty: &Type, unknown: &mut Vec<String>) -> String {
    let mut other = || {
        unknown.push(shown(ty));
        shown(ty)
    };
    let Type::Path(path) = ty else { return other() };
    let Some(last) = path.path.segments.last() else { return other() };
    let inner = match &last.arguments {
        PathArguments::None => None,
        PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
            Some(GenericArgument::Type(inner)) => Some(inner),
            _ => return other(),
        },
        PathArguments::Parenthesized(_) => return other(),
    };
    let name = last.ident.to_string();
    let known = match (&*name, inner) {
        ("Nullable", Some(inner)) => return format!("Option<{}>", rust(inner, unknown)),
        ("Array", Some(inner)) => return format!("Vec<{}>", rust(inner, unknown)),
        ("Unsigned", Some(inner)) => match &*rust(inner, &mut Vec::new()) {
            "i8" => "u8",
            "i16" => "u16",
            "i32" => "u32",
            "i64" => "u64",
            _ => return other(),
        },
        (name, None) => match plain(name) {
            Some(known) => known,
            None => return other(),
        },
        _ => return other(),
    };
    known.to_owned()
}

/// The same of a type without arguments.
fn plain(name: &str) -> Option<&'static str> {
    Some(match name {
        "Bool" => "bool",
        "TinyInt" | "Tinyint" => "i8",
        "SmallInt" | "Int2" | "Smallint" => "i16",
        "Integer" | "Int4" => "i32",
        "BigInt" | "Int8" | "Bigint" => "i64",
        "Float" | "Float4" => "f32",
        "Double" | "Float8" => "f64",
        "Numeric" | "Decimal" => "bigdecimal::BigDecimal",
        "Text" | "VarChar" | "Varchar" | "Char" | "Bpchar" | "Citext" | "Tinytext" | "Mediumtext"
        | "Longtext" => "String",
        "Binary" | "VarBinary" | "Varbinary" | "Bytea" | "Blob" | "Tinyblob" | "Mediumblob" | "Longblob" => {
            "Vec<u8>"
        }
        "Date" => "chrono::NaiveDate",
        "Time" => "chrono::NaiveTime",
        "Timestamp" | "Datetime" => "chrono::NaiveDateTime",
        "Timestamptz" | "TimestamptzSqlite" => "chrono::DateTime<chrono::Utc>",
        "Uuid" => "uuid::Uuid",
        "Json" | "Jsonb" => "serde_json::Value",
        _ => return None,
    })
}

/// A type as it was written, without the spaces between its signs.
fn shown(ty: &Type) -> String {
    quote::quote!(#ty).to_string().replace(' ', "")
}

/// A name that may be a word of Rust's.
fn escaped(name: &str) -> String {
    if syn::parse_str::<syn::Ident>(name).is_ok() { name.to_owned() } else { format!("r#{name}") }
}

/// `order_items` → `OrderItem`.
fn singular(table: &str) -> String {
    let one = match table {
        table if table.ends_with("ies") && table.len() > 4 => format!("{}y", &table[..table.len() - 3]),
        table if ["sses", "shes", "ches", "xes", "zes"].iter().any(|end| table.ends_with(end)) => {
            table[..table.len() - 2].to_owned()
        }
        table if ["ss", "us", "is"].iter().any(|end| table.ends_with(end)) => table.to_owned(),
        table => table.strip_suffix('s').filter(|one| !one.is_empty()).unwrap_or(table).to_owned(),
    };
    pascal_case(&one)
}

fn pascal_case(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('_').map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_what_one_row_is() {
        for (table, model) in [
            ("users", "User"),
            ("order_items", "OrderItem"),
            ("categories", "Category"),
            ("addresses", "Address"),
            ("boxes", "Box"),
            ("houses", "House"),
            ("status", "Status"),
            ("news", "New"),
            ("s", "S"),
            ("stock", "Stock"),
        ] {
            assert_eq!(singular(table), model, "{table}");
        }
    }

    #[test]
    fn a_type_of_sql_is_one_of_rust() {
        let of = |ty: &str| {
            let mut unknown = Vec::new();
            (rust(&syn::parse_str(ty).unwrap(), &mut unknown), unknown.join(" "))
        };
        let known = |ty: &str| (ty.to_owned(), String::new());
        let noted = |ty: &str, unknown: &str| (ty.to_owned(), unknown.to_owned());
        assert_eq!(of("Nullable<diesel::sql_types::Varchar>"), known("Option<String>"));
        assert_eq!(of("Array<Nullable<Int8>>"), known("Vec<Option<i64>>"));
        assert_eq!(of("Unsigned<Integer>"), known("u32"));
        assert_eq!(of("Nullable<super::Status>"), noted("Option<super::Status>", "super::Status"));
        assert_eq!(of("Range<Int4>"), noted("Range<Int4>", "Range<Int4>"));
        assert_eq!(of("Unsigned<Text>"), noted("Unsigned<Text>", "Unsigned<Text>"));
        assert_eq!(of("(A, B)"), noted("(A,B)", "(A,B)"));
    }
}
