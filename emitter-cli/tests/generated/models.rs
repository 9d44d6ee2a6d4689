//! The models of the application, each with its events. Made once by `emitter generate`: they are yours to change.

use diesel::prelude::*;
use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

use crate::schema::{accounts, options, order_items, user_events, users};

#[derive(
    Debug, Clone, PartialEq, Serialize, Deserialize, Emits, Queryable, Selectable, Identifiable, Insertable,
)]
#[diesel(table_name = users)]
#[emits(all)]
pub struct User {
    pub id: i32,
    pub email: String,
    #[emits(skip)]
    pub password_hash: String,
    pub type_: i16,
    pub is_admin: bool,
    pub invited_by: Option<i32>,
    pub score: Option<f64>,
    pub balance: bigdecimal::BigDecimal,
    pub avatar: Option<Vec<u8>>,
    pub settings: serde_json::Value,
    pub tags: Vec<Option<String>>,
    pub born_on: Option<chrono::NaiveDate>,
    pub created_at: chrono::DateTime<chrono::Utc>,
    pub updated_at: chrono::NaiveDateTime,
    pub external: uuid::Uuid,
}

#[derive(
    Debug, Clone, PartialEq, Serialize, Deserialize, Emits, Queryable, Selectable, Identifiable, Insertable,
)]
#[diesel(table_name = order_items, primary_key(order_id, place))]
#[emits(all)]
pub struct OrderItem {
    pub order_id: i64,
    pub place: i32,
    pub note: Option<String>,
}

#[derive(
    Debug, Clone, PartialEq, Serialize, Deserialize, Emits, Queryable, Selectable, Identifiable, Insertable,
)]
#[diesel(table_name = accounts)]
#[emits(all)]
pub struct Account {
    pub id: i64,
    #[emits(skip)]
    pub pin: Option<String>,
    #[emits(skip)]
    pub ssn: String,
    #[emits(skip)]
    pub iban: String,
    #[emits(skip)]
    pub card_number: String,
    #[emits(skip)]
    pub otp: String,
    #[emits(skip)]
    pub salt: String,
    #[emits(skip)]
    pub jwt: String,
    #[emits(skip)]
    pub file_hash: String,
    #[emits(skip)]
    pub api_key: String,
    #[emits(skip)]
    pub recovery_codes: String,
    pub pinned: bool,
}

#[derive(
    Debug, Clone, PartialEq, Serialize, Deserialize, Emits, Queryable, Selectable, Identifiable, Insertable,
)]
#[diesel(table_name = user_events)]
#[emits(all)]
pub struct UserEvent2 {
    pub id: i64,
    pub options: Option<String>,
}

#[derive(
    Debug, Clone, PartialEq, Serialize, Deserialize, Emits, Queryable, Selectable, Identifiable, Insertable,
)]
#[diesel(table_name = options)]
#[emits(all)]
pub struct Option2 {
    pub id: i64,
    pub value: Option<String>,
}

#[derive(
    Debug, Clone, PartialEq, Serialize, Deserialize, Emits, Queryable, Selectable, Identifiable, Insertable,
)]
#[diesel(table_name = crate::schema::auth::users)]
#[emits(all)]
pub struct AuthUser {
    pub id: i64,
    pub login: Option<String>,
}

#[derive(
    Debug, Clone, PartialEq, Serialize, Deserialize, Emits, Queryable, Selectable, Identifiable, Insertable,
)]
#[diesel(table_name = crate::schema::auth::roles)]
#[emits(all)]
pub struct Role {
    pub id: i64,
}
