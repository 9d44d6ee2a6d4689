//! The models of the application, each with its events. Made once by `emitter generate`: they are yours to change.

use diesel::prelude::*;
use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

use crate::schema::{order_items, users};

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
