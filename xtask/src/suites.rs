//! Which test suites need servers. Used here to name their kind, and by `tests/build.rs` to say what plain
//! `cargo test` leaves out.

/// The names of the `[[test]]` targets of a manifest that require the cargo feature `servers`.
pub(crate) fn needing_servers(manifest: &str) -> Vec<String> {
    manifest
        .split("[[")
        .filter_map(|section| section.strip_prefix("test]]"))
        .filter(|section| {
            value(section, "required-features").is_some_and(|list| list.contains("\"servers\""))
        })
        .filter_map(|section| value(section, "name"))
        .map(|name| name.trim_matches('"').to_owned())
        .collect()
}

/// What stands behind `key =` on a line of this table.
fn value<'a>(table: &'a str, key: &str) -> Option<&'a str> {
    table
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .find(|(found, _)| found.trim() == key)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::needing_servers;

    #[test]
    fn only_targets_with_the_feature_are_named() {
        let manifest = r#"
[package]
name = "emitter-tests"

[[test]]
name = "brokers"
required-features = ["servers"]

[[test]]
name = "ui"

[[bench]]
name = "bench"
required-features = ["servers"]

[[test]]
required-features = ["servers"]
name = "faults"

[lints]
workspace = true
"#;
        assert_eq!(needing_servers(manifest), ["brokers", "faults"]);
    }
}
