//! The alerts of `ops/alerts.yml`, tried on what nodes told: as much of PromQL as they are written in.
//!
//! What is looked for within a span of time is what happened between two scrapes. How long something has to be so, the `for` of
//! an alert, is not waited for: that is tried by Prometheus itself, in `tests/tests/alerts.rs`.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector, token};
use serde::Deserialize;

/// One alert.
#[derive(Debug, Clone, Deserialize)]
pub struct Alert {
    /// What it is called.
    pub alert: String,
    /// When it fires.
    pub expr: String,
    /// For how long that has to be so; at once where it does not say.
    #[serde(rename = "for", default)]
    pub lasts: String,
    /// What is told beside it, as its severity.
    pub labels: BTreeMap<String, String>,
    /// What is told of it.
    pub annotations: BTreeMap<String, String>,
}

/// All of them.
///
/// # Panics
/// If the file is not what Prometheus takes.
#[must_use]
pub fn alerts() -> Vec<Alert> {
    #[derive(Deserialize)]
    struct File {
        groups: Vec<Group>,
    }
    #[derive(Deserialize)]
    struct Group {
        rules: Vec<Alert>,
    }
    let file: File = serde_saphyr::from_str(include_str!("../../ops/alerts.yml")).expect("YAML of rules");
    file.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// The names of the alerts that fire between two scrapes of a node.
#[must_use]
pub fn firing(before: &str, after: &str) -> BTreeSet<String> {
    let (before, after) = (scrape(before), scrape(after));
    let fires = |alert: &Alert| match value(&parsed(&alert.expr), &before, &after) {
        Value::Vector(rows) => !rows.is_empty(),
        Value::Number(_) => panic!("{}: an alert is no number", alert.alert),
    };
    alerts().into_iter().filter(fires).map(|alert| alert.alert).collect()
}

/// An expression.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn parsed(expr: &str) -> Expr {
    parser::parse(expr).unwrap_or_else(|problem| panic!("{expr}: {problem}"))
}

/// Calls `each` with every metric in an expression and the labels that it is asked by or grouped by.
pub fn each_metric(expr: &Expr, grouped: &[String], each: &mut dyn FnMut(&str, &[String])) {
    let mut selector = |vector: &VectorSelector| {
        let asked = vector.matchers.matchers.iter().map(|matcher| matcher.name.clone());
        let labels: Vec<String> = asked.chain(grouped.iter().cloned()).collect();
        each(vector.name.as_deref().expect("a metric has a name"), &labels);
    };
    match expr {
        Expr::VectorSelector(vector) => selector(vector),
        Expr::MatrixSelector(matrix) => selector(&matrix.vs),
        Expr::Aggregate(aggregate) => {
            let by = labels(aggregate.modifier.as_ref());
            each_metric(&aggregate.expr, &[grouped, &by].concat(), each);
        }
        Expr::Binary(binary) => {
            each_metric(&binary.lhs, grouped, each);
            each_metric(&binary.rhs, grouped, each);
        }
        Expr::Paren(paren) => each_metric(&paren.expr, grouped, each),
        Expr::Call(call) => call.args.args.iter().for_each(|arg| each_metric(arg, grouped, each)),
        _ => {}
    }
}

/// Calls `each` with every metric in an expression, the labels that have to have some value, and each of the values that they may
/// have.
pub fn each_value(expr: &Expr, each: &mut dyn FnMut(&str, &str, &str)) {
    match expr {
        Expr::VectorSelector(vector) => {
            let name = vector.name.as_deref().expect("a metric has a name");
            for matcher in &vector.matchers.matchers {
                matcher.value.split('|').for_each(|value| each(name, &matcher.name, value));
            }
        }
        Expr::MatrixSelector(matrix) => each_value(&Expr::VectorSelector(matrix.vs.clone()), each),
        Expr::Aggregate(aggregate) => each_value(&aggregate.expr, each),
        Expr::Binary(binary) => {
            each_value(&binary.lhs, each);
            each_value(&binary.rhs, each);
        }
        Expr::Paren(paren) => each_value(&paren.expr, each),
        Expr::Call(call) => call.args.args.iter().for_each(|arg| each_value(arg, each)),
        _ => {}
    }
}

fn labels(modifier: Option<&LabelModifier>) -> Vec<String> {
    modifier.map(|modifier| modifier.labels().labels.clone()).unwrap_or_default()
}

type Labels = BTreeMap<String, String>;
type Rows = BTreeMap<(String, Labels), f64>;

/// A scrape by name and labels. `promtool` is stricter, and this is enough for text that an exporter made.
///
/// # Panics
/// If it is no such text.
#[must_use]
pub fn scrape(text: &str) -> Rows {
    let line = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split_terminator("\",").map(|label| {
            let (name, value) = label.split_once("=\"").expect("a label");
            (name.to_owned(), value.trim_end_matches('"').to_owned())
        });
        // A label that is empty is none.
        let labels = labels.filter(|(_, value)| !value.is_empty()).collect();
        ((name.to_owned(), labels), value.parse().expect("a number"))
    };
    text.lines().filter(|text| !text.is_empty() && !text.starts_with('#')).map(line).collect()
}

enum Value {
    Number(f64),
    Vector(BTreeMap<Labels, f64>),
}

impl Value {
    fn vector(self) -> BTreeMap<Labels, f64> {
        match self {
            Self::Vector(rows) => rows,
            Self::Number(_) => panic!("a number where metrics are meant"),
        }
    }
}

fn selected(vector: &VectorSelector, scrape: &Rows) -> BTreeMap<Labels, f64> {
    let name = vector.name.as_deref().unwrap_or_default();
    let rows = scrape.iter().filter(|((other, labels), _)| {
        let of = |label: &str| labels.get(label).map_or("", String::as_str);
        other == name && vector.matchers.matchers.iter().all(|matcher| matcher.is_match(of(&matcher.name)))
    });
    rows.map(|((_, labels), value)| (labels.clone(), *value)).collect()
}

fn value(expr: &Expr, before: &Rows, after: &Rows) -> Value {
    match expr {
        Expr::NumberLiteral(number) => Value::Number(number.val),
        Expr::Paren(paren) => value(&paren.expr, before, after),
        Expr::VectorSelector(vector) => Value::Vector(selected(vector, after)),
        Expr::Call(call) => {
            assert!(["increase", "rate"].contains(&call.func.name), "{}", call.func.name);
            let Expr::MatrixSelector(matrix) = &*call.args.args[0] else { panic!("{expr}") };
            let earlier = selected(&matrix.vs, before);
            // As Prometheus, which does not see the beginning of what was not there.
            let rows = selected(&matrix.vs, after).into_iter();
            let grown = rows.filter_map(|(labels, now)| {
                let grown = now - earlier.get(&labels)?;
                Some((labels, grown))
            });
            Value::Vector(grown.collect())
        }
        Expr::Aggregate(aggregate) => {
            let by = labels(aggregate.modifier.as_ref());
            let mut groups = BTreeMap::<Labels, Vec<f64>>::new();
            for (labels, row) in value(&aggregate.expr, before, after).vector() {
                let group = labels.into_iter().filter(|(name, _)| by.contains(name)).collect();
                groups.entry(group).or_default().push(row);
            }
            let whole = |rows: Vec<f64>| match aggregate.op.id() {
                token::T_SUM => rows.iter().sum(),
                token::T_MAX => rows.into_iter().fold(f64::NEG_INFINITY, f64::max),
                token::T_MIN => rows.into_iter().fold(f64::INFINITY, f64::min),
                _ => panic!("{}", aggregate.op),
            };
            Value::Vector(groups.into_iter().map(|(labels, rows)| (labels, whole(rows))).collect())
        }
        Expr::Binary(binary) => {
            let mut rows = value(&binary.lhs, before, after).vector();
            match (binary.op.id(), value(&binary.rhs, before, after)) {
                (token::T_GTR, Value::Number(limit)) => rows.retain(|_, row| *row > limit),
                (token::T_GTE, Value::Number(limit)) => rows.retain(|_, row| *row >= limit),
                (token::T_LSS, Value::Number(limit)) => rows.retain(|_, row| *row < limit),
                (token::T_LOR, Value::Vector(others)) => {
                    for (labels, row) in others {
                        rows.entry(labels).or_insert(row);
                    }
                }
                (token::T_DIV, Value::Vector(others)) => {
                    let of = |(labels, row): (Labels, f64)| Some((row / others.get(&labels)?, labels));
                    rows = rows.into_iter().filter_map(of).map(|(row, labels)| (labels, row)).collect();
                }
                (op, _) => panic!("{op}: {expr}"),
            }
            Value::Vector(rows)
        }
        _ => panic!("not understood: {expr}"),
    }
}
