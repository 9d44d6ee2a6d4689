//! The sources that are compiled: the same structs, with more and more on them.

/// How many models each specimen has.
pub(crate) const MODELS: u32 = 100;

/// The fields of a model: types as tables have them.
const FIELDS: [(&str, &str); 10] = [
    ("id", "i64"),
    ("owner", "i32"),
    ("name", "String"),
    ("status", "String"),
    ("note", "Option<String>"),
    ("city", "Option<String>"),
    ("active", "bool"),
    ("price", "f64"),
    ("total", "i64"),
    ("title", "String"),
];

/// A crate to compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Specimen {
    Plain,
    Serde,
    Emits,
    EmitsAll,
    OneListener,
    TwoListeners,
}

impl Specimen {
    pub(crate) const ALL: [Self; 6] =
        [Self::Plain, Self::Serde, Self::Emits, Self::EmitsAll, Self::OneListener, Self::TwoListeners];

    /// The name of its package.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Serde => "with-serde",
            Self::Emits => "with-emits",
            Self::EmitsAll => "with-emits-all",
            Self::OneListener => "with-one-listener",
            Self::TwoListeners => "with-two-listeners",
        }
    }

    pub(crate) const fn description(self) -> &'static str {
        match self {
            Self::Plain => "Clone, PartialEq, Debug",
            Self::Serde => "the same + Serialize, Deserialize",
            Self::Emits => "the same + Emits, four operations",
            Self::EmitsAll => "… with `all` instead",
            Self::OneListener => "four operations + a listener for each model",
            Self::TwoListeners => "four operations + two listeners for each model",
        }
    }

    /// Its operations, if it emits.
    const fn operations(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::Serde => None,
            Self::EmitsAll => Some("all"),
            Self::Emits | Self::OneListener | Self::TwoListeners => {
                Some("create, update, update_many, delete")
            }
        }
    }

    /// How many listeners each model has.
    const fn listeners(self) -> u32 {
        match self {
            Self::Plain | Self::Serde | Self::Emits | Self::EmitsAll => 0,
            Self::OneListener => 1,
            Self::TwoListeners => 2,
        }
    }

    /// The whole `lib.rs`.
    pub(crate) fn source(self) -> String {
        // Every specimen loads what any of them needs: loading is paid once, however many models there are.
        let mut source = String::from("use emitter_core as _;\nuse serde as _;\n");
        if self.listeners() > 0 {
            source += "\npub struct Cache;\n";
        }
        for number in 0..MODELS {
            source += &self.model(number);
        }
        for round in 0..self.listeners() {
            for number in 0..MODELS {
                source += &listener(number, round);
            }
        }
        source
    }

    fn model(self, number: u32) -> String {
        let mut model = String::from("\n#[derive(Clone, PartialEq, Debug)]\n");
        if self != Self::Plain {
            model += "#[derive(serde::Serialize, serde::Deserialize)]\n";
        }
        if let Some(operations) = self.operations() {
            model += "#[derive(emitter_core::Emits)]\n";
            model += &format!("#[emits(model = \"m{number}\", {operations})]\n");
        }
        model += &format!("pub struct M{number} {{\n");
        for (field, ty) in FIELDS {
            model += &format!("    pub {field}: {ty},\n");
        }
        model + "}\n"
    }
}

/// Half of them are plain; the others have a state and a filter. So have half of the first ones of
/// their models, and half of the second ones.
fn listener(model: u32, round: u32) -> String {
    let event = format!("emitter_core::Event<M{model}Updated>");
    let (filter, state) = match (model + round) % 2 {
        0 => ("", ""),
        _ => (", data(status = \"A\")", ", _: emitter_core::State<Cache>"),
    };
    format!(
        "\n#[emitter_core::listener(model = \"m{model}\", allow_remote{filter})]\n\
         async fn hear_{model}_{round}(_: {event}{state}) {{}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of these is in the source.
    fn check(specimen: Specimen, expected: [usize; 4]) {
        let source = specimen.source();
        let words = ["pub struct M", "Serialize", "Emits", "::listener("];
        assert_eq!(words.map(|word| source.matches(word).count()), expected, "{specimen:?}");
    }

    #[test]
    fn each_has_one_thing_more() {
        check(Specimen::Plain, [100, 0, 0, 0]);
        check(Specimen::Serde, [100, 100, 0, 0]);
        check(Specimen::Emits, [100, 100, 100, 0]);
        check(Specimen::EmitsAll, [100, 100, 100, 0]);
        check(Specimen::OneListener, [100, 100, 100, 100]);
        check(Specimen::TwoListeners, [100, 100, 100, 200]);
    }

    #[test]
    fn half_of_the_listeners_have_a_filter() {
        let filters = |specimen: Specimen| specimen.source().matches("data(status").count();
        assert_eq!([Specimen::OneListener, Specimen::TwoListeners].map(filters), [50, 100]);
    }
}
