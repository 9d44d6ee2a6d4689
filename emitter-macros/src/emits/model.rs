//! Decides everything about a model before anything is printed.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DeriveInput, Fields, Generics, Ident, LitInt, LitStr, Path, Type, Visibility,
    WhereClause, parse_quote,
};

use super::attr::{
    Before, FieldAttr, Mask, StructAttr, diesel_embeds, diesel_primary_key, diesel_table_name, serde_has,
    serde_rename, serde_rename_all,
};
use crate::crate_path;
use crate::errors::Errors;
use crate::time::Millis;

mod refusals;
mod secrecy;

use self::refusals::{
    refuse_events_words, refuse_generic_hash, refuse_kind, refuse_lifetimes, refuse_rows_words,
    refuse_secret, refuse_serde,
};

/// An operation, in the order of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Create,
    CreateMany,
    Update,
    UpdateMany,
    Upsert,
    Delete,
    DeleteMany,
}

impl Operation {
    pub(crate) const ALL: [Self; 7] = [
        Self::Create,
        Self::CreateMany,
        Self::Update,
        Self::UpdateMany,
        Self::Upsert,
        Self::Delete,
        Self::DeleteMany,
    ];

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.word() == word)
    }

    /// What the user writes.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::CreateMany => "create_many",
            Self::Update => "update",
            Self::UpdateMany => "update_many",
            Self::Upsert => "upsert",
            Self::Delete => "delete",
            Self::DeleteMany => "delete_many",
        }
    }

    /// The variant of `Operation`, the marker type, and the variant of `Body`.
    pub(crate) fn variant(self) -> &'static str {
        match self {
            Self::Create => "Create",
            Self::CreateMany => "CreateMany",
            Self::Update => "Update",
            Self::UpdateMany => "UpdateMany",
            Self::Upsert => "Upsert",
            Self::Delete => "Delete",
            Self::DeleteMany => "DeleteMany",
        }
    }

    /// The body's type, and the end of the event type's name.
    pub(crate) fn body(self) -> &'static str {
        match self {
            Self::Create => "Created",
            Self::CreateMany => "CreatedMany",
            Self::Update => "Updated",
            Self::UpdateMany => "UpdatedMany",
            Self::Upsert => "Upserted",
            Self::Delete => "Deleted",
            Self::DeleteMany => "DeletedMany",
        }
    }

    pub(crate) fn is_update(self) -> bool {
        matches!(self, Self::Update | Self::UpdateMany)
    }

    pub(crate) fn is_bulk(self) -> bool {
        matches!(self, Self::CreateMany | Self::UpdateMany | Self::DeleteMany)
    }
}

/// Where its events may go at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Everywhere,
    Local,
    Remote,
}

/// Where its events wait until they are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    Buffered,
    Queued,
    Durable,
}

/// A model, decided.
pub(crate) struct Model {
    pub(crate) krate: TokenStream,
    pub(crate) vis: Visibility,
    pub(crate) ident: Ident,
    /// The user's, with what an event needs of a type parameter.
    pub(crate) generics: Generics,
    /// The user's alone.
    pub(crate) own_bounds: Option<WhereClause>,
    pub(crate) name: String,
    /// What kind of event it is, if it is one itself and no row.
    pub(crate) event: Option<String>,
    /// The name of its table, as far as Diesel's attribute and Diesel's rule tell.
    pub(crate) table: Option<String>,
    pub(crate) version: u32,
    /// The types of the versions right before, oldest first.
    pub(crate) earlier: Vec<Path>,
    pub(crate) topic: Option<String>,
    pub(crate) qos: Qos,
    pub(crate) expires: Option<Millis>,
    pub(crate) before: Option<Before>,
    pub(crate) persistence: Persistence,
    pub(crate) park: bool,
    pub(crate) operations: Vec<Operation>,
    pub(crate) reach: Reach,
    pub(crate) key: Vec<KeyField>,
    /// How many fields the struct has.
    pub(crate) fields: usize,
    /// The fields that listeners see, in the order of the struct.
    pub(crate) columns: Vec<Column>,
    /// `Some` when listeners are handed a generated row without the skipped fields.
    pub(crate) row: Option<Row>,
}

/// How hard is tried to bring its events to other nodes.
pub(crate) struct Qos {
    pub(crate) model: u8,
    /// Those that differ.
    pub(crate) operations: Vec<(Operation, u8)>,
}

/// A field that listeners see.
pub(crate) struct Column {
    pub(crate) vis: Visibility,
    pub(crate) ident: Ident,
    /// The user's type, or the mask's.
    pub(crate) ty: TokenStream,
    /// The user's type as text.
    pub(crate) type_name: String,
    /// Whether a row without it can be read.
    pub(crate) may_be_absent: bool,
    /// Its name in JSON.
    pub(crate) wire_name: String,
    /// Its place among all fields; `None` where one of them may be loaded from several columns.
    pub(crate) place: Option<usize>,
}

/// A field of the key.
pub(crate) struct KeyField {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
    /// Its name in JSON.
    pub(crate) wire_name: String,
}

/// The generated row.
pub(crate) struct Row {
    /// serde's attributes of the struct, and the lints that it allows.
    pub(crate) attributes: Vec<Attribute>,
    /// Whether these say where serde is.
    pub(crate) names_serde: bool,
    pub(crate) fields: Vec<RowField>,
}

/// A field of the generated row.
pub(crate) struct RowField {
    /// serde's attributes and documentation of the field, and the lints that it allows.
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) ident: Ident,
    pub(crate) ty: TokenStream,
    pub(crate) mask: Option<Mask>,
}

/// A field as read.
struct Field<'a> {
    field: &'a syn::Field,
    ident: &'a Ident,
    attr: FieldAttr,
}

impl Model {
    pub(crate) fn new(input: &DeriveInput) -> syn::Result<Self> {
        let errors = Errors::default();
        let attr = StructAttr::parse(&input.attrs, &errors);
        // What is missing may be what was misspelt.
        let complete = errors.is_empty();
        let fields = fields(input, &attr, &errors);
        refuse_lifetimes(input, &errors);
        match attr.event {
            Some(()) => {
                refuse_rows_words(&attr, fields.as_deref().unwrap_or_default(), &errors);
                refuse_kind(&attr, &errors);
            }
            None => {
                refuse_events_words(&attr, &errors);
                fields.iter().flatten().for_each(|field| refuse_generic_hash(input, field, &errors));
            }
        }
        let krate = crate_path::core(attr.krate.as_ref());
        let operations = operations(input, &attr, complete, &errors);
        let key: Vec<KeyField> =
            fields.as_ref().map(|fields| key(input, &attr, complete, fields, &errors)).unwrap_or_default();
        refuse_serde(input, &attr, fields.as_deref().unwrap_or_default(), &key, &errors);
        let columns =
            fields.as_ref().map(|fields| columns(input, &attr, fields, &krate, &errors)).unwrap_or_default();
        let version = number(attr.version.as_ref(), 1);
        let earlier = earlier(&attr, version, &errors);
        if attr.local.is_some() && attr.remote.is_some() {
            errors.at(
                &input.ident,
                "`local` and `remote` exclude each other: leave both out for events that go everywhere",
            );
        }
        let updates =
            |(operation, _): &(Operation, _)| matches!(operation, Operation::Update | Operation::UpdateMany);
        if let Some((before, _)) = attr
            .before
            .as_ref()
            .filter(|_| complete && attr.event.is_none() && !attr.operations.iter().any(updates))
        {
            errors.at(
                before,
                "`before` is about updates, of which this model emits none: add `update` or `update_many`, or leave it out",
            );
        }
        let name = name(input, &attr, &errors);
        let table = || diesel_table_name(&input.attrs).unwrap_or_else(|| snake_case(&input.ident) + "s");
        let model = Self {
            vis: input.vis.clone(),
            ident: input.ident.clone(),
            event: attr.event.map(|()| attr.kind.as_ref().map_or_else(|| name.clone(), LitStr::value)),
            name,
            table: attr.event.is_none().then(table),
            generics: generics(input, &krate, &operations, &key),
            own_bounds: input.generics.where_clause.clone(),
            topic: topic(&attr, &errors),
            qos: Qos {
                model: number(attr.qos.as_ref(), 1),
                operations: attr
                    .qos_of
                    .iter()
                    .map(|(operation, qos)| (*operation, number(Some(qos), 1)))
                    .collect(),
            },
            expires: attr.expires,
            before: attr.before.as_ref().map(|(_, before)| *before),
            persistence: persistence(&attr, &errors),
            park: attr.park.is_some(),
            version,
            earlier,
            operations,
            reach: match (attr.local, attr.remote) {
                (Some(()), None) => Reach::Local,
                (None, Some(())) => Reach::Remote,
                _ => Reach::Everywhere,
            },
            key,
            fields: fields.as_ref().map_or(0, Vec::len),
            columns,
            row: fields.as_ref().and_then(|fields| row(input, fields, &krate, &errors)),
            krate,
        };
        errors.finish().map(|()| model)
    }
}

impl Field<'_> {
    /// The type that listeners see.
    fn seen_type(&self, krate: &TokenStream) -> TokenStream {
        let ty = &self.field.ty;
        match self.attr.mask {
            Some(Mask::Redact) => quote_spanned!(ty.span()=> #krate::Redacted),
            Some(Mask::Hash) => quote_spanned!(ty.span()=> #krate::Hashed),
            Some(Mask::Skip) | None => quote!(#ty),
        }
    }

    /// What of its attributes the generated row has. Of a masked field, serde knows nothing but the
    /// name: what it does to the value would not fit any more.
    fn row_attributes(&self) -> Vec<Attribute> {
        let attributes = &self.field.attrs;
        if self.attr.mask.is_none() {
            return kept(attributes, &["serde", "doc", "allow"]);
        }
        let rename = serde_rename(attributes).map(|name| parse_quote!(#[serde(rename = #name)]));
        let default = parse_quote!(#[serde(default)]);
        kept(attributes, &["doc", "allow"]).into_iter().chain(rename).chain([default]).collect()
    }

    /// Whether a row without it can be read.
    fn may_be_absent(&self) -> bool {
        let option = matches!(&self.field.ty, Type::Path(path)
            if path.path.segments.last().is_some_and(|last| last.ident == "Option"));
        let masked = self.attr.mask.is_some();
        option || masked || serde_has(&self.field.attrs, &["default", "skip", "skip_deserializing"])
    }
}

/// A type as text, with the spaces that a reader expects.
fn type_name(ty: &Type, mask: Option<Mask>) -> String {
    match mask {
        Some(Mask::Redact) => return "redacted".to_owned(),
        Some(Mask::Hash) => return "hashed".to_owned(),
        Some(Mask::Skip) | None => {}
    }
    let tokens = quote!(#ty).to_string();
    let mut text = String::with_capacity(tokens.len());
    let mut rest = tokens.chars().peekable();
    while let Some(c) = rest.next() {
        let between_words = c == ' '
            && text.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ',' | ';'))
            && rest.peek().is_some_and(|c| !matches!(c, '<' | '>' | ':' | ',' | ';' | ')' | ']'));
        if c != ' ' || between_words {
            text.push(c);
        }
    }
    text
}

/// `LoginFailed` → `login_failed`, as the specification names events. With an `s`, the table of a struct that
/// names none, by Diesel's rule: `user_roles` of `UserRole`.
fn snake_case(ident: &Ident) -> String {
    let mut name = String::new();
    for c in ident.unraw().to_string().chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(c.to_lowercase());
    }
    name
}

/// `None` when it has no named fields, which is an error.
fn fields<'a>(input: &'a DeriveInput, model: &StructAttr, errors: &Errors) -> Option<Vec<Field<'a>>> {
    let named = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => Some(fields),
            Fields::Unnamed(_) | Fields::Unit => None,
        },
        Data::Enum(_) | Data::Union(_) => None,
    };
    let Some(named) = named else {
        errors.at(&input.ident, "`Emits` is for structs with named fields: a row has named columns");
        return None;
    };
    let read = |field: &'a syn::Field| {
        let ident = field.ident.as_ref()?;
        // Of a mistake in its attributes the field is not the cause.
        let complete = Errors::default();
        let attr = FieldAttr::parse(&field.attrs, &complete);
        if complete.is_empty() {
            refuse_secret(ident, &attr, model, errors);
        }
        errors.take(complete);
        Some(Field { field, ident, attr })
    };
    Some(named.named.iter().filter_map(read).collect())
}

fn persistence(attr: &StructAttr, errors: &Errors) -> Persistence {
    match (&attr.durable, &attr.queued) {
        (None, None) => Persistence::Buffered,
        (None, Some(_)) => Persistence::Queued,
        (Some(_), None) => Persistence::Durable,
        (Some(_), Some(queued)) => {
            errors.at(
                queued,
                "`durable` and `queued` exclude each other: `durable` writes an event down in the transaction of its row, \
                 `queued` after it\nleave one of them out",
            );
            Persistence::Durable
        }
    }
}

/// The user's generics, with what an event needs of each type parameter.
fn generics(
    input: &DeriveInput,
    krate: &TokenStream,
    operations: &[Operation],
    key: &[KeyField],
) -> Generics {
    let mut generics = input.generics.clone();
    let parameters: Vec<Ident> = generics.type_params().map(|parameter| parameter.ident.clone()).collect();
    if parameters.is_empty() {
        return generics;
    }
    let compared =
        operations.iter().any(|operation| operation.is_update()).then(|| quote!(+ ::core::cmp::PartialEq));
    let predicates = &mut generics.make_where_clause().predicates;
    for parameter in &parameters {
        predicates.push(parse_quote! {
            #parameter: ::core::clone::Clone + ::core::marker::Send + ::core::marker::Sync + 'static
                + #krate::__private::serde::Serialize + #krate::__private::serde::de::DeserializeOwned #compared
        });
    }
    for KeyField { ty, .. } in key {
        predicates.push(parse_quote!(#ty: #krate::key::KeyColumn));
    }
    generics
}

fn number<N: std::str::FromStr<Err: std::fmt::Display>>(literal: Option<&LitInt>, default: N) -> N {
    // Its range was looked at where it was read.
    literal.and_then(|literal| literal.base10_parse().ok()).unwrap_or(default)
}

/// The types of earlier versions, of which there cannot be more than versions.
fn earlier(attr: &StructAttr, version: u32, errors: &Errors) -> Vec<Path> {
    let earlier = attr.earlier.clone().unwrap_or_default();
    let most = usize::try_from(version - 1).unwrap_or(usize::MAX);
    if let Some(one_too_many) = earlier.get(most) {
        errors.at(
            one_too_many,
            format_args!(
                "there are not so many versions before {version}: write the model's present version, as in `version = {}`",
                earlier.len() + 1
            ),
        );
    }
    earlier
}

/// The levels between prefix and operation.
fn topic(attr: &StructAttr, errors: &Errors) -> Option<String> {
    let given = attr.topic.as_ref()?;
    let topic = given.value();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let level = |level: &str| !level.is_empty() && level.chars().all(allowed);
    if topic.len() > 128 || !topic.split('/').all(level) {
        errors.at(
            given,
            "a topic is levels of letters (a to z), digits, '_', '-' and '.', such as \"shop/orders\", of 128 bytes at \
             most;\nthe application's prefix comes before it, and the operation after it",
        );
    }
    Some(topic)
}

fn name(input: &DeriveInput, attr: &StructAttr, errors: &Errors) -> String {
    let name = match &attr.model {
        Some(given) => given.value(),
        None if attr.event.is_some() => snake_case(&input.ident),
        None => camel_case(&input.ident.unraw().to_string()),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 128 || !name.chars().all(allowed) {
        let rule =
            "a model's name is one level of a topic: use 1 to 128 letters (a to z), digits, '_' or '-'";
        match &attr.model {
            Some(given) => errors.at(given, format_args!("{rule}, such as \"user\"")),
            None => errors.at(&input.ident, format_args!("{rule}, as in `#[emits(model = \"user\")]`")),
        }
    }
    name
}

fn operations(input: &DeriveInput, attr: &StructAttr, complete: bool, errors: &Errors) -> Vec<Operation> {
    if attr.event.is_some() {
        return vec![Operation::Create];
    }
    let mut operations: Vec<Operation> = attr.operations.iter().map(|(operation, _)| *operation).collect();
    operations.sort_unstable();
    operations.dedup();
    if operations.is_empty() && complete {
        errors.at(
            &input.ident,
            "no operation emits: write those that shall, such as `#[emits(create, update, delete)]`, or `#[emits(all)]`;\n\
             what is no row is an event itself, with `#[emits(event)]`",
        );
    }
    operations
}

fn key(
    input: &DeriveInput,
    attr: &StructAttr,
    complete: bool,
    fields: &[Field<'_>],
    errors: &Errors,
) -> Vec<KeyField> {
    if attr.event.is_some() && attr.key.is_none() {
        return Vec::new();
    }
    let explicit = attr.key.clone().or_else(|| diesel_primary_key(&input.attrs));
    let implicit = explicit.is_none();
    let idents = explicit.unwrap_or_else(|| vec![Ident::new("id", input.ident.span())]);
    let mut key = Vec::new();
    for ident in idents {
        let Some(field) = fields.iter().find(|field| field.ident.unraw() == ident.unraw()) else {
            if complete || !implicit {
                missing_key_field(&ident, implicit, fields, errors);
            }
            continue;
        };
        if key.iter().any(|other: &KeyField| other.ident == *field.ident) {
            errors.at(&ident, format_args!("`{ident}` is in the key twice; once is enough"));
        }
        if field.attr.mask.is_some() && attr.event.is_none() {
            errors.at(
                field.ident,
                "a field of the key cannot be skipped, redacted or hashed: it tells listeners which row it is",
            );
        }
        if serde_has(&field.field.attrs, &["skip", "skip_serializing", "flatten"]) {
            errors.at(
                field.ident,
                "a field of the key has to be a field in JSON: it tells other nodes which row it is",
            );
        }
        let (ident, ty) = (field.ident.clone(), field.field.ty.clone());
        key.push(KeyField { ident, ty, wire_name: wire_name(input, field) });
    }
    key
}

/// A field's name in JSON.
fn wire_name(input: &DeriveInput, field: &Field<'_>) -> String {
    let own = || rename(&field.ident.unraw().to_string(), serde_rename_all(&input.attrs).as_deref());
    serde_rename(&field.field.attrs).unwrap_or_else(own)
}

fn columns(
    input: &DeriveInput,
    attr: &StructAttr,
    fields: &[Field<'_>],
    krate: &TokenStream,
    errors: &Errors,
) -> Vec<Column> {
    let embeds = fields.iter().any(|field| diesel_embeds(&field.field.attrs));
    let seen = fields.iter().enumerate().filter(|(_, field)| field.attr.mask != Some(Mask::Skip));
    let defaults = serde_has(&input.attrs, &["default"]);
    let columns: Vec<Column> = seen
        .map(|(place, field)| Column {
            vis: field.field.vis.clone(),
            ident: field.ident.clone(),
            ty: field.seen_type(krate),
            type_name: type_name(&field.field.ty, field.attr.mask),
            may_be_absent: defaults || field.may_be_absent(),
            wire_name: wire_name(input, field),
            place: (!embeds).then_some(place),
        })
        .collect();
    if let Some(one_too_many) = columns.get(128) {
        let limit = match attr.event {
            Some(()) => "an event has at most 128 fields: put some of them into a struct of their own",
            None => {
                "an emitting model has at most 128 fields, as a table has for Diesel: skip those that no listener needs"
            }
        };
        errors.at(&one_too_many.ident, limit);
    }
    columns
}

fn missing_key_field(ident: &Ident, implicit: bool, fields: &[Field<'_>], errors: &Errors) {
    let names: Vec<String> = fields.iter().map(|field| format!("`{}`", field.ident)).collect();
    let names = if names.is_empty() {
        "there are none".to_owned()
    } else {
        format!("the fields are {}", names.join(", "))
    };
    if implicit {
        errors.at(ident, format_args!("no field `id`: name the key with `#[emits(key(…))]`; {names}"));
    } else {
        errors.at(ident, format_args!("the key names `{ident}`, which is no field; {names}"));
    }
}

/// The generated row, if a field is skipped.
fn row(input: &DeriveInput, fields: &[Field<'_>], krate: &TokenStream, errors: &Errors) -> Option<Row> {
    for field in fields.iter().filter(|field| field.attr.mask.is_some_and(|mask| mask != Mask::Skip)) {
        if serde_has(&field.field.attrs, &["flatten"]) {
            errors
                .at(field.ident, "a flattened field is many in JSON: skip it, or mask the fields within it");
        }
    }
    let masks = fields.iter().any(|field| field.attr.mask.is_some());
    if masks && serde_has(&input.attrs, &["default"]) {
        errors.at(
            &input.ident,
            "the row that listeners see is another struct, for fields of this one are skipped or masked, and it has \
             no `Default`: write `#[serde(default)]` at the fields that may be absent",
        );
    }
    masks.then(|| Row {
        attributes: kept(&input.attrs, &["serde", "allow"]),
        names_serde: serde_has(&input.attrs, &["crate"]),
        fields: fields
            .iter()
            .filter(|field| field.attr.mask != Some(Mask::Skip))
            .map(|field| RowField {
                attributes: field.row_attributes(),
                vis: field.field.vis.clone(),
                ident: field.ident.clone(),
                ty: field.seen_type(krate),
                mask: field.attr.mask,
            })
            .collect(),
    })
}

fn kept(attributes: &[Attribute], names: &[&str]) -> Vec<Attribute> {
    let kept = |attribute: &&Attribute| names.iter().any(|name| attribute.path().is_ident(name));
    attributes.iter().filter(kept).cloned().collect()
}

/// `OrderItem` → `orderItem`, as the specification names models.
fn camel_case(ident: &str) -> String {
    let mut chars = ident.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// A field's name under serde's `rename_all`, which changes ASCII letters only.
fn rename(field: &str, rule: Option<&str>) -> String {
    let capital = |word: &str| -> String {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
    };
    let pascal = || field.split('_').map(capital).collect::<String>();
    match rule {
        Some("camelCase") => {
            let pascal = pascal();
            let mut chars = pascal.chars();
            chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
        }
        Some("PascalCase") => pascal(),
        Some("UPPERCASE" | "SCREAMING_SNAKE_CASE") => field.to_ascii_uppercase(),
        Some("kebab-case") => field.replace('_', "-"),
        Some("SCREAMING-KEBAB-CASE") => field.to_ascii_uppercase().replace('_', "-"),
        _ => field.to_owned(),
    }
}
