// @generated automatically by Diesel CLI.

diesel::table! {
    use diesel::sql_types::*;

    /// Who may log in.
    users (id) {
        id -> Int4,
        #[max_length = 255]
        email -> Varchar,
        password_hash -> Text,
        #[sql_name = "type"]
        type_ -> Int2,
        is_admin -> Bool,
        invited_by -> Nullable<Int4>,
        score -> Nullable<Float8>,
        balance -> Numeric,
        avatar -> Nullable<Bytea>,
        settings -> Jsonb,
        tags -> Array<Nullable<Text>>,
        born_on -> Nullable<Date>,
        created_at -> Timestamptz,
        updated_at -> Timestamp,
        external -> Uuid,
    }
}

diesel::table! {
    order_items (order_id, place) {
        order_id -> Int8,
        place -> Int4,
        note -> Nullable<Text>,
    }
}

diesel::joinable!(order_items -> users (place));
diesel::allow_tables_to_appear_in_same_query!(order_items, users,);
