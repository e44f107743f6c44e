//! What the YAML reader says of a mistake, put into a sentence for the operator.
//!
//! Its errors are text, `PATH: PROBLEM at line L column C`; whatever is not recognised here is
//! passed on as it stands.

use super::ConfigError;

/// The error of a text that could not be read.
pub(super) fn of(error: &serde_norway::Error) -> ConfigError {
    let location = error.location();
    let mut message = error.to_string();
    if let Some(at) = &location {
        let place = format!(" at line {} column {}", at.line(), at.column());
        if let Some(bare) = message.strip_suffix(&place) {
            message.truncate(bare.len());
        }
    }
    ConfigError::Invalid {
        path: None,
        line: location.map(|at| at.line()),
        reason: reason(&message),
    }
}

/// Makes a sentence of the key that the problem lies at, empty for the whole file, and the rest
/// of the problem.
type Reading = fn(&str, &str) -> Option<String>;

fn reason(message: &str) -> String {
    const READINGS: [(&str, Reading); 5] = [
        ("unknown field `", unknown_key),
        ("duplicate field `", duplicate_key),
        ("unknown variant `", unknown_word),
        ("invalid type: ", wrong_type),
        ("invalid value: ", wrong_type),
    ];
    READINGS
        .iter()
        .find_map(|(begins, read)| {
            let (before, problem) = message.split_once(begins)?;
            let key = match before {
                "" => "",
                path => path.strip_suffix(": ")?,
            };
            read(key, problem)
        })
        .unwrap_or_else(|| message.to_owned())
}

/// `spare_gb`, expected one of `name`, `volume-group`
fn unknown_key(parent: &str, problem: &str) -> Option<String> {
    let (key, expected) = problem.split_once('`')?;
    let place = match parent {
        "" => String::new(),
        parent => format!(" in {parent}"),
    };
    let known = quoted(expected).join(", ");
    Some(format!(
        "unknown key {key:?}{place}; known keys are {known}"
    ))
}

/// `name`
fn duplicate_key(parent: &str, problem: &str) -> Option<String> {
    let key = problem.strip_suffix('`')?;
    let place = match parent {
        "" => "the file",
        parent => parent,
    };
    Some(format!(
        "{place} has the key {key:?} twice; it should be there once"
    ))
}

/// `fat`, expected `thick` or `thin`
fn unknown_word(key: &str, problem: &str) -> Option<String> {
    let (word, expected) = problem.split_once('`')?;
    let known = quoted(expected).join(" or ");
    Some(format!("{key} is {word:?}; it should be {known}"))
}

/// string "ten", expected u64
fn wrong_type(key: &str, problem: &str) -> Option<String> {
    let (found, expected) = problem.rsplit_once(", expected ")?;
    let key = if key.is_empty() { "the file" } else { key };
    let found = match found {
        "sequence" => "a list".to_owned(),
        "map" => "a mapping".to_owned(),
        "unit value" => "empty".to_owned(),
        // string "ten", integer `-1`
        scalar => format!("the {}", scalar.replace('`', "")),
    };
    let expected = match expected {
        "u32" | "u64" => "a whole number, 0 or more",
        "f64" => "a number",
        "a sequence" => "a list",
        "a string" | "a YAML tag starting with '!'" => "a text",
        expected => expected,
    };
    Some(format!("{key} is {found}; it should be {expected}"))
}

/// What stands between backquotes, aliases that are empty left out.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| !word.is_empty())
        .collect()
}
