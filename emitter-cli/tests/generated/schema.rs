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

diesel::table! {
    accounts (id) {
        id -> Int8,
        pin -> Nullable<Text>,
        ssn -> Text,
        iban -> Text,
        card_number -> Text,
        otp -> Text,
        salt -> Text,
        jwt -> Text,
        file_hash -> Text,
        api_key -> Text,
        recovery_codes -> Text,
        pinned -> Bool,
    }
}

diesel::table! {
    user_events (id) {
        id -> Int8,
        options -> Nullable<Text>,
    }
}

diesel::table! {
    options (id) {
        id -> Int8,
        value -> Nullable<Text>,
    }
}

/// A schema of the database's.
pub mod auth {
    diesel::table! {
        auth.users (id) {
            id -> Int8,
            login -> Nullable<Text>,
        }
    }

    diesel::table! {
        auth.roles (id) {
            id -> Int8,
        }
    }
}

diesel::joinable!(order_items -> users (place));
diesel::allow_tables_to_appear_in_same_query!(order_items, users,);
