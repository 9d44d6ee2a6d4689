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
    Functions,
    OneListener,
    TwoListeners,
}

impl Specimen {
    pub(crate) const ALL: [Self; 7] = [
        Self::Plain,
        Self::Serde,
        Self::Emits,
        Self::EmitsAll,
        Self::Functions,
        Self::OneListener,
        Self::TwoListeners,
    ];

    /// The name of its package.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Serde => "with-serde",
            Self::Emits => "with-emits",
            Self::EmitsAll => "with-emits-all",
            Self::Functions => "with-functions",
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
            Self::Functions => "four operations + two functions for each model",
            Self::OneListener => "… one of which is a listener",
            Self::TwoListeners => "… both of which are listeners",
        }
    }

    /// Its operations, if it emits.
    const fn operations(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::Serde => None,
            Self::EmitsAll => Some("all"),
            Self::Emits | Self::Functions | Self::OneListener | Self::TwoListeners => {
                Some("create, update, update_many, delete")
            }
        }
    }

    /// How many functions that take its events each model has. They are async, and cost something
    /// by themselves.
    const fn functions(self) -> u32 {
        match self {
            Self::Plain | Self::Serde | Self::Emits | Self::EmitsAll => 0,
            Self::Functions | Self::OneListener | Self::TwoListeners => 2,
        }
    }

    /// How many of them are listeners.
    const fn listeners(self) -> u32 {
        match self {
            Self::Plain | Self::Serde | Self::Emits | Self::EmitsAll | Self::Functions => 0,
            Self::OneListener => 1,
            Self::TwoListeners => 2,
        }
    }

    /// The whole `lib.rs`.
    pub(crate) fn source(self) -> String {
        // Every specimen loads what any of them needs: loading is paid once, however many models there are.
        let mut source = String::from("use emitter_core as _;\nuse serde as _;\n");
        if self.functions() > 0 {
            source += "\npub struct Cache;\n";
        }
        for number in 0..MODELS {
            source += &self.model(number);
        }
        for round in 0..self.functions() {
            for number in 0..MODELS {
                source += &function(number, round, round < self.listeners());
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
fn function(model: u32, round: u32, listens: bool) -> String {
    let event = format!("emitter_core::Event<M{model}Updated>");
    let (filter, state) = match (model + round) % 2 {
        0 => ("", ""),
        _ => (", data(status = \"A\")", ", _: emitter_core::State<Cache>"),
    };
    let attribute = if listens {
        format!("#[emitter_core::listener(model = \"m{model}\", allow_remote{filter})]")
    } else {
        "#[allow(dead_code)]".to_owned()
    };
    format!("\n{attribute}\nasync fn hear_{model}_{round}(_: {event}{state}) {{}}\n")
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
        check(Specimen::Functions, [100, 100, 100, 0]);
        check(Specimen::OneListener, [100, 100, 100, 100]);
        check(Specimen::TwoListeners, [100, 100, 100, 200]);
    }

    #[test]
    fn half_of_the_listeners_have_a_filter() {
        let filters = |specimen: Specimen| specimen.source().matches("data(status").count();
        assert_eq!([Specimen::OneListener, Specimen::TwoListeners].map(filters), [50, 100]);
    }
}
