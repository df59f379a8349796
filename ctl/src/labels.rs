//! Labels: how they are selected on the command line, and what one may be.

use anyhow::{Context, bail, ensure};
use api::selector::Selector;

/// Reads `-l`: Calico's selector language, or kubectl's list `a=b,c!=d,e in (f,g),h,!i`.
pub(crate) fn selector(text: &str) -> anyhow::Result<Selector> {
    if let Ok(selector) = Selector::parse(text) {
        return Ok(selector);
    }
    let terms: Vec<String> = split(text)
        .map(str::trim)
        .filter(|term| !term.is_empty())
        .map(term)
        .collect::<Result<_, _>>()
        .with_context(|| format!("--selector {text:?}"))?;
    Selector::parse(&terms.join(" && ")).with_context(|| format!("--selector {text:?}"))
}

/// The parts between commas that stand in no parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        c == ',' && depth == 0
    })
}

/// One term of kubectl's list in Calico's language.
fn term(text: &str) -> anyhow::Result<String> {
    let quoted = |value: &str| {
        let value = value.trim();
        if value.contains('\'') {
            format!("\"{value}\"")
        } else {
            format!("'{value}'")
        }
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    if let [key, operator @ ("in" | "notin"), ..] = words.as_slice() {
        let (_, set) = text
            .split_once('(')
            .context("a set stands in parentheses")?;
        let set = set.strip_suffix(')').context("a set ends with `)`")?;
        let values: Vec<String> = set.split(',').map(quoted).collect();
        let operator = if *operator == "in" { "in" } else { "not in" };
        return Ok(format!("{key} {operator} {{{}}}", values.join(", ")));
    }
    let key_of = |text: &str| {
        let key = text.trim().to_owned();
        ensure!(
            !key.is_empty() && !key.contains(char::is_whitespace),
            "{text:?} is no label; allowed: key, !key, key=value, key!=value, key in (a,b), or a selector such as rack == 'r1'"
        );
        Ok(key)
    };
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(format!("{} != {}", key_of(key)?, quoted(value)));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(format!("{} == {}", key_of(key)?, quoted(value)));
    }
    match text.strip_prefix('!') {
        Some(key) => Ok(format!("!has({})", key_of(key)?)),
        None => Ok(format!("has({})", key_of(text)?)),
    }
}

/// A change of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Set(String, String),
    Remove(String),
}

/// Reads `key=value`, or `key` and `key-` for a removal.
pub(crate) fn change(text: &str, remove: bool) -> anyhow::Result<Change> {
    if remove || (text.ends_with('-') && !text.contains('=')) {
        let key = text.split('=').next().unwrap_or_default();
        return Ok(Change::Remove(key.trim_end_matches('-').to_owned()));
    }
    let Some((key, value)) = text.split_once('=') else {
        bail!("{text:?} is no label; allowed: key=value, or key with --remove");
    };
    check_key(key)?;
    check_value(value).with_context(|| format!("label {key}"))?;
    Ok(Change::Set(key.to_owned(), value.to_owned()))
}

/// Kubernetes' rule for the keys of labels.
fn check_key(key: &str) -> anyhow::Result<()> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let dns = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let prefix_fits =
        prefix.is_none_or(|text| (1..=253).contains(&text.len()) && text.chars().all(dns));
    ensure!(
        prefix_fits && !name.is_empty() && is_label_text(name),
        "label key {key:?}: must be up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends, perhaps after a domain and `/`"
    );
    Ok(())
}

fn check_value(value: &str) -> anyhow::Result<()> {
    ensure!(
        is_label_text(value),
        "value {value:?}: must be empty, or up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends"
    );
    Ok(())
}

fn is_label_text(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && ends(text.chars().next())
        && ends(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_languages_select_the_same() {
        for (text, meant) in [
            ("rack=r1", "rack == 'r1'"),
            ("rack==r1,row!=2", "rack == 'r1' && row != '2'"),
            ("rack", "has(rack)"),
            ("!rack, row", "!has(rack) && has(row)"),
            ("rack in (r1, r2),row", "rack in {'r1', 'r2'} && has(row)"),
            ("rack notin (r1)", "rack not in {'r1'}"),
            ("rack == 'r1' || has(x)", "rack == 'r1' || has(x)"),
            ("a.b/c=d", "a.b/c == 'd'"),
        ] {
            assert_eq!(selector(text).unwrap().to_string(), meant, "{text}");
        }
        for text in ["rack r1", "=x", "rack in r1", "rack in (r1"] {
            let error = format!("{:#}", selector(text).unwrap_err());
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_label_is_set_or_removed_and_a_wrong_one_is_named() {
        let set = |key: &str, value: &str| Change::Set(key.to_owned(), value.to_owned());
        assert_eq!(change("a=b", false).unwrap(), set("a", "b"));
        assert_eq!(change("x.y/a=", false).unwrap(), set("x.y/a", ""));
        for (text, remove) in [("a", true), ("a=b", true), ("a-", false)] {
            assert_eq!(
                change(text, remove).unwrap(),
                Change::Remove("a".to_owned())
            );
        }
        for text in ["a", "a b=c", "-a=b", "a=b c", "A/b=c", "a=.b"] {
            let error = format!("{:#}", change(text, false).unwrap_err());
            assert!(
                error.contains("must") || error.contains("allowed"),
                "{error}"
            );
        }
    }
}
