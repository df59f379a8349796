//! Calico's selector language over labels.
//!
//! ```text
//! or      = and { "||" and }
//! and     = term { "&&" term }
//! term    = { "!" } ( "(" or ")" | "all()" | "global()" | "has(" key ")" | key test )
//! test    = "==" text | "!=" text | "contains" text | "starts with" text | "ends with" text
//!         | "in" set | "not in" set
//! set     = "{" [ text { "," text } ] "}"
//! text    = "'" … "'" | '"' … '"'        key = letters, digits, "_" "." "/" "-"
//! ```
//! An empty selector selects everything. `!=` and `not in` hold of an object that lacks the label; the other tests do
//! not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::{char, multispace0};
use nom::combinator::{cut, eof, map, value};
use nom::error::{ErrorKind, ParseError};
use nom::multi::{many0, separated_list0};
use nom::sequence::{delimited, preceded, terminated};
use nom::{Err, IResult, Parser};

/// Nested parentheses and negations in one selector, at most: parsing recurses.
const NESTING_MAX: usize = 32;

/// A parsed selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    text: String,
    root: Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    All,
    Has(String),
    Test(String, Test),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Equal(String),
    NotEqual(String),
    Contains(String),
    StartsWith(String),
    EndsWith(String),
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("selector {text:?}: at character {position} ({found}): expected {expected}")]
pub struct SelectorError {
    /// The whole selector.
    pub text: String,
    /// Where, counted in characters from 1.
    pub position: usize,
    /// What stands there.
    pub found: String,
    /// What could stand there.
    pub expected: String,
}

impl Selector {
    /// The selector that selects everything.
    pub fn all() -> Self {
        Self {
            text: "all()".to_owned(),
            root: Node::All,
        }
    }

    /// Parses a selector; an empty one is `all()`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Ok(Self::all());
        }
        let whole = terminated(
            |input| or(input, 0),
            expect("`&&`, `||` or the end", (multispace0, eof)),
        );
        match preceded(multispace0, whole).parse(text) {
            Ok((_, root)) => Ok(Self {
                text: text.to_owned(),
                root,
            }),
            Err(Err::Error(fault) | Err::Failure(fault)) => Err(fault.explain(text)),
            Err(Err::Incomplete(_)) => Err(Fault::at(text, "a whole selector").explain(text)),
        }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.root.matches(labels)
    }

    /// Whether it selects everything, whatever the labels.
    pub const fn is_all(&self) -> bool {
        matches!(self.root, Node::All)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Node {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All => true,
            Self::Has(key) => labels.contains_key(key),
            Self::Test(key, test) => test.holds(labels.get(key).map(String::as_str)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(terms) => terms.iter().all(|term| term.matches(labels)),
            Self::Or(terms) => terms.iter().any(|term| term.matches(labels)),
        }
    }
}

impl Test {
    fn holds(&self, label: Option<&str>) -> bool {
        match self {
            Self::Equal(wanted) => label == Some(wanted),
            Self::NotEqual(wanted) => label != Some(wanted),
            Self::Contains(part) => label.is_some_and(|label| label.contains(part)),
            Self::StartsWith(part) => label.is_some_and(|label| label.starts_with(part)),
            Self::EndsWith(part) => label.is_some_and(|label| label.ends_with(part)),
            Self::In(set) => label.is_some_and(|label| set.contains(label)),
            Self::NotIn(set) => label.is_none_or(|label| !set.contains(label)),
        }
    }
}

/// The furthest place where parsing failed and what would have been accepted there.
#[derive(Debug)]
struct Fault<'a> {
    rest: &'a str,
    expected: Vec<&'static str>,
}

impl<'a> Fault<'a> {
    fn at(rest: &'a str, expected: &'static str) -> Self {
        Self {
            rest,
            expected: vec![expected],
        }
    }

    fn explain(&self, text: &str) -> SelectorError {
        let trimmed = self.rest.trim_start();
        let before = &text[..text.len() - trimmed.len()];
        SelectorError {
            text: text.to_owned(),
            position: before.chars().count() + 1,
            found: match trimmed.split_whitespace().next() {
                None => "the end".to_owned(),
                Some(word) => format!("`{}`", word.chars().take(20).collect::<String>()),
            },
            expected: self.expected.join(" or "),
        }
    }
}

impl<'a> ParseError<&'a str> for Fault<'a> {
    fn from_error_kind(input: &'a str, _: ErrorKind) -> Self {
        Self {
            rest: input,
            expected: Vec::new(),
        }
    }

    fn append(_: &'a str, _: ErrorKind, other: Self) -> Self {
        other
    }

    fn or(mut self, other: Self) -> Self {
        match self.rest.len().cmp(&other.rest.len()) {
            std::cmp::Ordering::Less => self,
            std::cmp::Ordering::Greater => other,
            std::cmp::Ordering::Equal => {
                self.expected.extend(other.expected);
                self
            }
        }
    }
}

type Parsed<'a, T> = IResult<&'a str, T, Fault<'a>>;

/// `parser`, whose failure at its own beginning reads "expected `what`".
fn expect<'a, T>(
    what: &'static str,
    mut parser: impl Parser<&'a str, Output = T, Error = Fault<'a>>,
) -> impl FnMut(&'a str) -> Parsed<'a, T> {
    move |input| {
        parser.parse(input).map_err(|error| {
            error.map(|fault| {
                if fault.expected.is_empty() {
                    Fault::at(input, what)
                } else {
                    fault
                }
            })
        })
    }
}

fn symbol<'a>(text: &'static str) -> impl FnMut(&'a str) -> Parsed<'a, &'a str> {
    move |input| preceded(multispace0, tag(text)).parse(input)
}

fn or(input: &str, depth: usize) -> Parsed<'_, Node> {
    let (input, first) = and(input, depth)?;
    let (input, mut more) =
        many0(preceded(symbol("||"), cut(|input| and(input, depth)))).parse(input)?;
    if more.is_empty() {
        return Ok((input, first));
    }
    more.insert(0, first);
    Ok((input, Node::Or(more)))
}

fn and(input: &str, depth: usize) -> Parsed<'_, Node> {
    let (input, first) = term(input, depth)?;
    let (input, mut more) =
        many0(preceded(symbol("&&"), cut(|input| term(input, depth)))).parse(input)?;
    if more.is_empty() {
        return Ok((input, first));
    }
    more.insert(0, first);
    Ok((input, Node::And(more)))
}

fn term(input: &str, depth: usize) -> Parsed<'_, Node> {
    if depth > NESTING_MAX {
        return Err(Err::Failure(Fault::at(
            input,
            "at most 32 nested `(` and `!`",
        )));
    }
    let (input, _) = multispace0(input)?;
    expect(
        "a label, `has(label)`, `all()`, `global()`, `!` or `(`",
        alt((
            map(
                preceded(char('!'), cut(|input| term(input, depth + 1))),
                |inner| Node::Not(Box::new(inner)),
            ),
            delimited(
                char('('),
                cut(|input| or(input, depth + 1)),
                cut(expect("`)`, `&&` or `||`", symbol(")"))),
            ),
            value(Node::All, (tag("all("), multispace0, char(')'))),
            value(Node::All, (tag("global("), multispace0, char(')'))),
            map(
                delimited(
                    tag("has("),
                    cut(expect("a label", key)),
                    cut(expect("`)`", symbol(")"))),
                ),
                |key| Node::Has(key.to_owned()),
            ),
            test,
        )),
    )(input)
}

fn key(input: &str) -> Parsed<'_, &str> {
    preceded(
        multispace0,
        take_while1(|c: char| c.is_ascii_alphanumeric() || "_./-".contains(c)),
    )
    .parse(input)
}

fn test(input: &str) -> Parsed<'_, Node> {
    let (input, key) = key(input)?;
    let set_of = |input| cut(expect("a set like `{'a', 'b'}`", set)).parse(input);
    let text_of = |input| cut(expect("a text in quotes", text)).parse(input);
    let (input, test) = cut(expect(
        "`==`, `!=`, `in`, `not in`, `contains`, `starts with` or `ends with`",
        preceded(
            multispace0,
            alt((
                map(preceded(tag("=="), text_of), Test::Equal),
                map(preceded(tag("!="), text_of), Test::NotEqual),
                map(preceded(tag("contains"), text_of), Test::Contains),
                map(
                    preceded((tag("starts"), symbol("with")), text_of),
                    Test::StartsWith,
                ),
                map(
                    preceded((tag("ends"), symbol("with")), text_of),
                    Test::EndsWith,
                ),
                map(preceded((tag("not"), symbol("in")), set_of), Test::NotIn),
                map(preceded(tag("in"), set_of), Test::In),
            )),
        ),
    ))
    .parse(input)?;
    Ok((input, Node::Test(key.to_owned(), test)))
}

fn text(input: &str) -> Parsed<'_, String> {
    let quoted = |quote: char| {
        map(
            delimited(
                char(quote),
                take_while(move |c| c != quote),
                cut(expect("the closing quote", char(quote))),
            ),
            str::to_owned,
        )
    };
    preceded(multispace0, alt((quoted('\''), quoted('"')))).parse(input)
}

fn set(input: &str) -> Parsed<'_, BTreeSet<String>> {
    map(
        delimited(
            symbol("{"),
            separated_list0(symbol(","), expect("a text in quotes", text)),
            cut(expect("a text in quotes, `,` or `}`", symbol("}"))),
        ),
        |items| items.into_iter().collect(),
    )
    .parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Selector::parse(selector)
            .unwrap_or_else(|error| panic!("{error}"))
            .matches(&labels)
    }

    #[test]
    fn every_test_selects_as_its_words_say() {
        let labels = [("rack", "r1"), ("node-role.kubernetes.io/worker", "")];
        for (selector, wanted) in [
            ("", true),
            ("all()", true),
            (" all( ) ", true),
            ("global()", true),
            ("!all()", false),
            ("has(rack)", true),
            ("has( node-role.kubernetes.io/worker )", true),
            ("!has(rack)", false),
            ("! ! has(rack)", true),
            ("rack == 'r1'", true),
            ("rack==\"r1\"", true),
            ("rack == 'r2'", false),
            ("rack != 'r2'", true),
            ("row != 'x'", true),
            ("row == ''", false),
            ("rack in {'r1', 'r2'}", true),
            ("rack in {}", false),
            ("rack not in {\"r1\"}", false),
            ("row not in {'r1'}", true),
            ("rack contains '1'", true),
            ("rack starts with 'r'", true),
            ("rack ends with 'r'", false),
            ("row contains ''", false),
            ("rack == 'r2' || has(rack) && rack != 'r3'", true),
            ("(rack == 'r2' || has(rack)) && rack == 'r3'", false),
            ("!(rack == 'r2') && !has(row)", true),
        ] {
            assert_eq!(selects(selector, &labels), wanted, "{selector}");
        }
    }

    #[test]
    fn a_broken_selector_is_refused_with_place_and_expectation() {
        for (selector, position, expected) in [
            ("rack = 'r1'", 6, "`==`"),
            ("rack == r1", 9, "a text in quotes"),
            ("rack == 'r1", 12, "closing quote"),
            ("rack == 'r1' &&", 16, "a label"),
            ("rack == 'r1' & has(x)", 14, "`&&`, `||` or the end"),
            ("(has(a) || has(b)", 18, "`)`"),
            ("has(a", 6, "`)`"),
            ("has()", 5, "a label"),
            ("rack in {'a' 'b'}", 14, "`,` or `}`"),
            ("rack in 'a'", 9, "a set"),
            ("rack in {'a', }", 13, "`}`"),
            ("rack", 5, "`in`"),
            ("&& has(a)", 1, "a label"),
        ] {
            let error = Selector::parse(selector).expect_err(selector);
            assert_eq!(error.position, position, "{error}");
            assert!(error.expected.contains(expected), "{error}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_exhaust_the_stack() {
        for opening in ["(", "!"] {
            let error = Selector::parse(&opening.repeat(100_000)).expect_err("too deep");
            assert!(error.expected.contains("nested"), "{}", error.expected);
        }
    }
}
