//! A struct for each table.

use std::fmt::Write;

use syn::{GenericArgument, PathArguments, Type};

use super::table::{Column, Table};

/// What the user chose.
pub(super) struct Choices<'c> {
    pub(super) emits: &'c str,
    pub(super) module: &'c str,
}

/// A struct.
pub(super) struct Model {
    pub(super) name: String,
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

/// What in a column's name says that nobody else is to see it.
const SECRET: [&str; 6] = ["password", "passwd", "secret", "token", "api_key", "private_key"];

impl Model {
    pub(super) fn of(table: &Table) -> Self {
        let Table { name, key, columns } = table;
        let mut findings = Vec::new();
        let mut field = |Column { name: column, ty }: &Column| {
            let mut unknown = Vec::new();
            let ty = rust(ty, &mut unknown);
            findings.extend(unknown.iter().map(|unknown| {
                format!("{name}.{column}: which type of Rust is `{unknown}`? Put it in place of that")
            }));
            let is_secret = !key.contains(column) && SECRET.iter().any(|part| column.contains(part));
            if is_secret {
                findings.push(format!(
                    "{name}.{column} is left out of events, as its name says that it is secret"
                ));
            }
            Field { name: escaped(column), ty, is_secret }
        };
        let fields = columns.iter().map(&mut field).collect();
        Self { name: singular(name), table: name.clone(), key: key.clone(), fields, findings }
    }

    fn write(&self, text: &mut String, Choices { emits, .. }: &Choices<'_>) {
        let Self { name, table, key, fields, .. } = self;
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            text,
            "\n#[derive(\n    Debug, Clone, PartialEq, Serialize, Deserialize, Emits, Queryable, Selectable, Identifiable, Insertable,\n)]"
        );
        let key: Vec<String> = key.iter().map(|column| escaped(column)).collect();
        let key = if key == ["id"] { String::new() } else { format!(", primary_key({})", key.join(", ")) };
        let _ = writeln!(text, "#[diesel(table_name = {}{key})]\n#[emits({emits})]", escaped(table));
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
    let mut tables: Vec<String> = models.iter().map(|model| escaped(&model.table)).collect();
    tables.sort_unstable();
    let mut text = format!(
        "//! The models of the application, each with its events. Made once by `emitter generate`: they are yours to change.\n\n\
         use diesel::prelude::*;\nuse emitter_diesel::Emits;\nuse serde::{{Deserialize, Serialize}};\n\nuse {}::{{{}}};\n",
        choices.module,
        tables.join(", ")
    );
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
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    one.split('_').map(word).collect()
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
