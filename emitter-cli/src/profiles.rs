//! Places by name, in a file that anybody may read: it holds no secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::report::Failure;
use crate::secrets::Address;

/// What a profile can say; what it does not is as if no profile were there.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Profile {
    pub(crate) database: Option<String>,
    pub(crate) mqtt: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) layout: Option<String>,
    pub(crate) schema: Option<String>,
    pub(crate) table_prefix: Option<String>,
}

/// The profile of this name; without a name that which is called `default`, where it is there.
///
/// # Errors
/// What is wrong with the file, in words that show nothing of it.
pub(crate) fn read(file: Option<&Path>, name: Option<&str>) -> Result<Profile, Failure> {
    let Some(path) = file.map(Path::to_owned).or_else(usual) else {
        return match name {
            Some(_) => Err(Failure::said(
                "there is no home directory to look for profiles in: give `--profiles FILE`",
            )),
            None => Ok(Profile::default()),
        };
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() && name.is_none() => {
            return Ok(Profile::default());
        }
        Err(error) => {
            return Err(Failure::said(format!("the profiles in {} cannot be read: {error}", path.display())));
        }
    };
    profile(&text, name)
        .map_err(|problem| Failure::said(format!("the profiles in {}: {problem}", path.display())))
}

/// `$XDG_CONFIG_HOME/emitter/profiles.toml`, or that in `~/.config`.
fn usual() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))?;
    Some(config.join("emitter/profiles.toml"))
}

fn profile(text: &str, name: Option<&str>) -> Result<Profile, String> {
    // Its own words show the line, in which there may be a secret.
    let mut all: BTreeMap<String, Profile> = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        format!(
            "line {line} is not as it should be: there are tables such as [production], each with any of `database`, `mqtt`, \
             `prefix`, `layout`, `schema`, `table-prefix`, which are texts"
        )
    })?;
    // Also those that are not meant: the file is no place for secrets.
    for (name, profile) in &all {
        for (what, address, cure) in [
            (
                "database",
                &profile.database,
                "put it into EMITTER_DATABASE, or on PostgreSQL into ~/.pgpass or a file of its own (`?passfile=/path`)",
            ),
            (
                "mqtt",
                &profile.mqtt,
                "put it into EMITTER_MQTT_PASSWORD, or the whole URL into EMITTER_MQTT_URL",
            ),
        ] {
            let address = address.as_ref().map(|address| Address::from(address.clone()));
            if address.is_some_and(|address| address.has_secret() || !address.is_plain()) {
                return Err(format!(
                    "`{what}` of [{name}] has a password in it, which is not for files like this: {cure}"
                ));
            }
        }
    }
    match (all.remove(name.unwrap_or("default")), name) {
        (Some(profile), _) => Ok(profile),
        (None, None) => Ok(Profile::default()),
        (None, Some(name)) => {
            let known: Vec<String> = all.into_keys().collect();
            Err(format!("there is no [{name}]; there are: {}", known.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "[default]\ndatabase = \"shop.db\"\n[production]\ndatabase = \"postgres://shop@db/shop\"\ntable-prefix = \"shop_\"";

    #[test]
    fn a_profile_is_found_by_its_name() {
        let of = |name| profile(TWO, name).map(|profile| profile.database.unwrap_or_default());
        assert_eq!(of(None), Ok("shop.db".to_owned()));
        assert_eq!(of(Some("production")), Ok("postgres://shop@db/shop".to_owned()));
        assert_eq!(
            of(Some("staging")),
            Err("there is no [staging]; there are: default, production".to_owned())
        );
        assert!(profile("", None).is_ok_and(|profile| profile.database.is_none()));
    }

    #[test]
    fn the_one_in_the_readme_is_one() {
        let readme = include_str!("../../README.md");
        let (_, rest) = readme.split_once("`~/.config/emitter/profiles.toml`:\n\n```toml\n").unwrap();
        let (file, _) = rest.split_once("```").unwrap();
        let place = profile(file, None).unwrap();
        assert!(place.database.is_some() && place.mqtt.is_some());
        assert_eq!(profile(file, Some("staging")).unwrap().table_prefix.as_deref(), Some("shop_"));
    }

    #[test]
    fn a_secret_is_refused_with_the_cure_and_never_shown() {
        for (file, cure) in [
            ("[a]\ndatabase = \"postgres://shop:sesame@db/shop\"", ".pgpass"),
            ("[a]\ndatabase = \"postgres:///shop?password=sesame\"", "EMITTER_DATABASE"),
            ("[a]\nmqtt = \"mqtts://shop:sesame@broker\"", "EMITTER_MQTT_PASSWORD"),
            ("[a]\npassword = \"sesame\"", "line 2"),
            ("[a]\nmqtt = sesame", "line 2"),
        ] {
            let Err(problem) = profile(file, None) else { panic!("{file} is taken") };
            assert!(problem.contains(cure) && !problem.contains("sesame"), "{problem}");
        }
    }
}
