//! `docs/MISTAKES.md`: what the compiler answers to each mistake, rendered from `ui/fail`.
//!
//! Generated, so that the table never says what the compiler does not.

use std::path::{Path, PathBuf};
use std::{env, fs};

const INTRODUCTION: &str = "\
# Mistakes that the compiler catches

Each with the program that makes it, and the first error of the compiler's answer, its code and its pictures left
out. Rendered from `tests/ui/fail` by `cargo xtask bless`.
";

/// The headings, and the words with which the names of their programs begin: the last that fits.
const GROUPS: [(&str, &[&str]); 6] = [
    ("The derive", &[""]),
    ("Events that are no rows", &["event_"]),
    ("Keys", &["key_", "no_id_"]),
    ("Listeners", &["listener_", "two_listeners_", "skipped_field_in_"]),
    ("Filters", &["filter_"]),
    ("Statements", &["statement_", "replace_into"]),
];

/// What explains the compiler or the framework, and says nothing of what to write.
const NOISE: [&str; 16] = [
    "consider using `--verbose`",
    "evaluation of `_",
    "following other types implement",
    "implements `",
    "in this macro invocation",
    "is implemented for",
    "is not implemented for",
    "not found in",
    "on by default",
    "originates in the",
    "perhaps you need to implement",
    "redefined here",
    "required for",
    "the full name",
    "unknown field",
    "unsatisfied trait bound",
];

/// The first error of an answer in one cell: its message, its label, and what its notes say to write.
fn answer(stderr: &str) -> String {
    let errors: Vec<usize> =
        stderr.lines().enumerate().filter(|(_, line)| is_error(line)).map(|(at, _)| at).collect();
    let first: Vec<&str> = stderr.lines().take(errors.get(1).copied().unwrap_or(usize::MAX)).collect();
    let place = first.iter().position(|line| line.trim_start().starts_with("--> ")).unwrap_or(first.len());
    let (message, rest) = first.split_at(place);

    let mut parts: Vec<String> = message.iter().map(|line| without_code(line).trim().to_owned()).collect();
    parts.extend(label(rest).filter(|label| parts[0] != *label).map(str::to_owned));
    for (at, line) in rest.iter().enumerate().filter(|(_, line)| !is_noise(line)) {
        let line = line.trim_start();
        if let Some(note) = line.strip_prefix("= note: ") {
            parts.push(note.to_owned());
        } else if let Some(help) = line.strip_prefix("help: ") {
            let code = rest[at..].iter().find_map(|line| suggested(line)).filter(|code| !help.contains(code));
            parts.push(code.map_or(help.to_owned(), |code| format!("{help}: `{code}`")));
        }
    }
    if errors.len() > 1 {
        parts.push(format!("*and {} more*", errors.len() - 1));
    }
    parts.join("<br>").replace('|', "\\|")
}

fn is_error(line: &str) -> bool {
    line.starts_with("error: ") || line.starts_with("error[")
}

fn is_noise(line: &str) -> bool {
    NOISE.iter().any(|noise| line.contains(noise))
}

/// A message without `error[E0277]: `, and without the words for a check that panicked.
fn without_code(line: &str) -> &str {
    let message =
        if is_error(line) { line.split_once(": ").map_or(line, |(_, message)| message) } else { line };
    message.trim_start_matches("evaluation panicked: ")
}

/// What stands behind the first `^^^` of the user's own program.
fn label<'a>(lines: &[&'a str]) -> Option<&'a str> {
    let program = lines.iter().take_while(|line| line.trim().contains('|') || line.contains("-->"));
    let marked = program.filter_map(|line| line.split_once("| ")?.1.trim_start().strip_prefix('^')).next()?;
    let label = marked.trim_start_matches(['^', '-']).trim();
    (!label.is_empty() && !is_noise(label)).then_some(label)
}

/// The code of a line that shows how it should be: `14 + code`, or `14 | code`.
fn suggested(line: &str) -> Option<&str> {
    let number = line.trim_start();
    let code = number.trim_start_matches(|c: char| c.is_ascii_digit());
    let code =
        code.strip_prefix(" + ").or_else(|| code.strip_prefix(" | ")).filter(|_| code.len() < number.len());
    code.map(str::trim)
}

/// The mistake in words: the program's first line, if that is a comment, else its name.
fn mistake(name: &str, program: &str) -> String {
    let comment = program.lines().next().and_then(|line| line.strip_prefix("//! "));
    comment.map_or_else(|| name.replace('_', " "), |comment| comment.trim_end_matches('.').to_owned())
}

fn group(name: &str) -> &'static str {
    let fits = |(_, starts): &&(&str, &[&str])| starts.iter().any(|start| name.starts_with(start));
    GROUPS.iter().rev().find(fits).map_or("", |(heading, _)| heading)
}

fn render(folder: &Path) -> String {
    let mut programs: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder of programs can be read")
        .map(|entry| entry.expect("so can its entries").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    programs.sort();
    let rows: Vec<(&str, String)> = programs.iter().map(|path| row(path)).collect();

    let mut text = INTRODUCTION.to_owned();
    for (heading, _) in GROUPS {
        text += &format!("\n## {heading}\n\n| mistake | answer |\n|---|---|\n");
        text.extend(rows.iter().filter(|(group, _)| *group == heading).map(|(_, row)| row.as_str()));
    }
    text
}

/// The heading that a program belongs below, and its line.
fn row(program: &Path) -> (&'static str, String) {
    let name = program.file_stem().unwrap_or_default().to_string_lossy();
    let mistake = mistake(&name, &fs::read_to_string(program).expect("a program is text"));
    // A program that was never blessed has no answer yet.
    let answer = answer(&fs::read_to_string(program.with_extension("stderr")).unwrap_or_default());
    (group(&name), format!("| [{mistake}](../tests/ui/fail/{name}.rs) | {answer} |\n"))
}

#[test]
fn the_table_of_mistakes_is_what_the_compiler_says() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = tests.with_file_name("docs").join("MISTAKES.md");
    let rendered = render(&tests.join("ui/fail"));
    // The word by which the answers themselves are accepted.
    if env::var("TRYBUILD").is_ok_and(|value| value == "overwrite") {
        fs::write(&table, &rendered).expect("docs/MISTAKES.md can be written");
    }
    let written = fs::read_to_string(&table).unwrap_or_default();
    assert!(
        written == rendered,
        "docs/MISTAKES.md is not what `ui/fail` holds: run `cargo xtask bless`, \
         or for this file alone `TRYBUILD=overwrite cargo test -p emitter-tests --test mistakes`"
    );
}

#[test]
fn an_answer_is_its_message_and_what_to_write() {
    let check = |stderr, expected| assert_eq!(answer(stderr), expected, "{stderr}");
    check("error: one\n       two | three\n --> ui/a.rs:1:1\n  |\n1 | a\n  | ^\n", "one<br>two \\| three");
    check(
        "error[E0277]: `A` is no B\n --> ui/a.rs:1:1\n  |\n1 | a\n  | ^^ not this\n  |\n  = help: the trait\n  = note: write b\n\nerror: c\n",
        "`A` is no B<br>not this<br>write b<br>*and 1 more*",
    );
    check(
        "error[E0080]: evaluation panicked: never\n --> ui/a.rs:1:1\n  |\n1 | a\n  | ^ evaluation of `_` failed here\n\nhelp: say so\n  |\n1 - a\n1 + b\n  |\n",
        "never<br>say so: `b`",
    );
}
