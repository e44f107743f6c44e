//! The documents say what is so: promises name tests that exist, CI runs the README's commands,
//! the transcript is what the demo prints.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ringback::config::Config;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the workspace")
        .to_owned()
}

fn read(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Id, state and evidence of each row of a table in `docs/promises.md`.
fn promises(text: &str) -> Vec<(String, String, String)> {
    text.lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| id "))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 6, "a row has four cells: {line}");
            (cells[1].into(), cells[3].into(), cells[4].into())
        })
        .collect()
}

/// What is wrong with a piece of evidence, given how to read a file of the project.
fn objection(evidence: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let evidence = evidence.trim_matches('`');
    let (file, test) = match evidence.split_once("::") {
        Some((file, test)) => (file, Some(test)),
        None => (evidence, None),
    };
    let Some(text) = read(file) else {
        return Some(format!("{file} does not exist"));
    };
    let test = test?;
    let defines = text.contains(&format!("fn {test}("));
    (!defines).then(|| format!("{file} has no test {test}"))
}

#[test]
fn every_shown_promise_names_a_test_that_exists_and_every_open_one_names_none() {
    let text = read("docs/promises.md");
    let all = promises(&text);
    assert!(all.len() >= 20, "the table was read: {}", all.len());
    let read = |file: &str| fs::read_to_string(root().join(file)).ok();
    for (id, state, evidence) in all {
        match state.as_str() {
            "shown" => {
                for one in evidence.split(", ") {
                    assert_eq!(objection(one, &read), None, "{id}");
                }
            }
            "open" => assert_eq!(evidence, "", "{id}"),
            other => panic!("{id} is {other:?}; it should be shown or open"),
        }
    }
}

#[test]
fn a_promise_that_names_no_existing_test_is_noticed() {
    let read = |file: &str| (file == "a.rs").then(|| "fn holds() {}".to_owned());
    assert_eq!(objection("`a.rs::holds`", &read), None);
    for wrong in ["`a.rs::hold`", "`b.rs::holds`", "`b`", ""] {
        assert!(objection(wrong, &read).is_some(), "{wrong}");
    }
}

/// The commands that the README gives with a cargo in front.
fn readme_commands() -> Vec<String> {
    let readme = read("README.md");
    let commands = readme.lines().filter_map(|line| line.strip_prefix("$ "));
    commands
        .filter(|command| command.starts_with("cargo "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn ci_runs_the_readme_s_two_commands_word_for_word() {
    let commands = readme_commands();
    assert_eq!(
        commands,
        ["cargo run --release -- demo", "cargo test --workspace"]
    );
    let ci = read(".ci/run");
    for command in commands {
        assert!(ci.lines().any(|line| line == command), "{command}");
    }
}

/// What stays the same from run to run and from host to host: of a table's rows the steps' names,
/// elsewhere all but numbers and paths.
fn skeleton(transcript: &str) -> Vec<String> {
    let changes = |word: &str| word.starts_with('/') || word.contains(|c: char| c.is_ascii_digit());
    transcript
        .lines()
        .map(|line| {
            let stable = line.split('│').next().unwrap_or_default();
            let words = stable.split_whitespace().filter(|word| !changes(word));
            words.collect::<Vec<_>>().join(" ")
        })
        .collect()
}

#[test]
fn the_transcript_in_the_readme_is_what_the_demo_prints() {
    let readme = read("README.md");
    let (_, behind) = readme
        .split_once("<!-- transcript: cargo run --release -- demo -->\n```text\n")
        .expect("the README has a transcript");
    let (transcript, _) = behind.split_once("\n```").expect("the block ends");
    let temporary = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_ringback"))
        .args(["demo", "--data-mib", "32"])
        .env("TMPDIR", temporary.path())
        .output()
        .expect("the demo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout).expect("text");
    assert_eq!(skeleton(transcript), skeleton(printed.trim_end()));
    let left: Vec<_> = fs::read_dir(temporary.path()).expect("lists").collect();
    assert!(left.is_empty(), "the demo leaves nothing behind: {left:?}");
}

#[test]
fn the_exit_codes_on_the_page_are_those_of_the_program() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringback"))
        .arg("--help")
        .output()
        .expect("the program runs");
    let help = String::from_utf8(output.stdout).expect("text");
    let start = help.find("Exit codes:").expect("the help has them");
    let codes = help[start..].trim_end();
    assert!(codes.lines().count() > 5, "{codes}");
    assert!(read("docs/operations/command-line.md").contains(codes));
}

/// The section of a page under this heading.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page.find(heading).unwrap_or_else(|| panic!("no {heading}"));
    let section = &page[start + heading.len()..];
    section.find("\n## ").map_or(section, |end| &section[..end])
}

/// Cells of the rows of a table whose first cell is code.
fn rows(section: &str) -> Vec<Vec<&str>> {
    section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// Keys in a cell: those between backquotes.
fn keys(cell: &str) -> Vec<String> {
    let keys = cell.split('`').skip(1).step_by(2);
    keys.map(|key| key.trim_end_matches("[]").to_owned())
        .collect()
}

/// The keys that the configuration has where `nonsense` stands in this text.
fn known_keys(text: &str) -> Vec<String> {
    let refused = Config::parse(text)
        .expect_err("nonsense is no key")
        .to_string();
    let (_, known) = refused.split_once("known keys are ").expect(&refused);
    known.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_page_of_the_configuration_has_every_key_and_no_other() {
    let page = read("docs/operations/configuration.md");
    for (heading, text) in [
        ("# Configuration", "nonsense: 1"),
        ("## `device-classes[]`", "device-classes: [{nonsense: 1}]"),
        ("## `s3`", "s3: {nonsense: 1}"),
        ("## `datapath`", "datapath: {nonsense: 1}"),
    ] {
        let table = rows(section(&page, heading));
        let mut documented: Vec<String> = table.iter().flat_map(|row| keys(row[0])).collect();
        // Sections that have no table of their own are documented by their keys.
        for key in &mut documented {
            key.truncate(key.find('.').unwrap_or(key.len()));
        }
        documented.dedup();
        documented.sort();
        documented.dedup();
        let mut known = known_keys(text);
        known.sort();
        assert_eq!(documented, known, "{heading}");
    }
}

#[test]
fn the_page_of_the_configuration_has_the_defaults_and_ranges_that_hold() {
    let page = read("docs/operations/configuration.md");
    let class = "device-classes: [{name: a, default: true, directory: /a}]\n";
    let parse = |datapath: &str| Config::parse(&format!("{class}datapath: {{{datapath}}}\n"));
    let without = parse("").expect("valid");
    let table = rows(section(&page, "## `datapath`"));
    assert!(table.len() >= 8, "the table was read: {table:?}");
    for row in table {
        let (key, default, range) = (&keys(row[0])[0], row[1].trim_matches('`'), row[2]);
        let told = parse(&format!("{key}: {default}")).expect(key);
        assert_eq!(told.datapath, without.datapath, "{key}");
        if range.contains(" to ") {
            let refused = parse(&format!("{key}: 99999999"))
                .expect_err(key)
                .to_string();
            let sentence = format!("datapath.{key} is 99999999; it should be {range}");
            assert!(refused.contains(&sentence), "{refused}");
        }
    }
}
