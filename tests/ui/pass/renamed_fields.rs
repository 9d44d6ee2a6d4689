//! Rust's names in attributes, serde's names in JSON.

use emitter_diesel::{Emits, Event, Model, listener};
use serde::{Deserialize, Serialize};
use serde_json::{json, to_value};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[serde(rename_all = "camelCase")]
#[emits(key(user_id, role_name), all)]
struct RoleGrant {
    user_id: i32,
    #[serde(rename = "role")]
    role_name: String,
    granted_by: Option<i32>,
    #[emits(skip)]
    internal_note: String,
}

#[listener(model = RoleGrant, where(role_name = "admin", user_id = 1), data(granted_by), changed(granted_by))]
async fn on_grant(event: Event<RoleGrantUpdated>) {
    let _ = (&event.after.granted_by, event.changed().granted_by());
}

fn main() {
    let grant =
        RoleGrant { user_id: 1, role_name: "admin".into(), granted_by: None, internal_note: String::new() };
    assert_eq!(RoleGrant::KEY_COLUMNS, ["userId", "role"]);
    assert_eq!(to_value(grant.to_row(None)).unwrap(), json!({ "userId": 1, "role": "admin", "grantedBy": null }));
}
