//! Parses the text of a filter into its terms.

use std::fmt;

use super::{Amount, Compare, Match, NumberKey, SizeKey, Term, Test, TextKey, WordKey};
use crate::snapshot::{Confidence, Guard, Kind, Level, State};

/// A text that is not a filter.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("column {column}: {problem}")]
pub struct FilterError {
    /// Where the fault is, in characters from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// There is no such key.
    Key(String),
    /// This key has no operator.
    NoOperator(&'static str),
    /// The operator does not fit this key.
    Operator(&'static str),
    /// There is no value after the operator.
    NoValue,
    /// The closing quote is missing.
    Quote,
    /// Something follows a closing quote.
    AfterQuote,
    /// The key has no such word.
    Word(WordKey, String),
    /// This is not a number.
    Number(String),
    /// This is not a number of bytes.
    Size(String),
}

/// The keys, as they are listed.
const KEYS: [(&str, Key); 15] = [
    ("kind", Key::Word(WordKey::Kind)),
    ("state", Key::Word(WordKey::State)),
    ("name", Key::Text(TextKey::Name)),
    ("entry", Key::Text(TextKey::Entry)),
    ("top", Key::Text(TextKey::Top)),
    ("fn", Key::Text(TextKey::Function)),
    ("id", Key::Number(NumberKey::Id)),
    ("thread", Key::Number(NumberKey::Thread)),
    ("used", Key::Size(SizeKey::Used)),
    ("peak", Key::Size(SizeKey::Peak)),
    ("size", Key::Size(SizeKey::Size)),
    ("free", Key::Size(SizeKey::Free)),
    ("level", Key::Word(WordKey::Level)),
    ("guard", Key::Word(WordKey::Guard)),
    ("confidence", Key::Word(WordKey::Confidence)),
];

#[derive(Clone, Copy)]
enum Key {
    Word(WordKey),
    Text(TextKey),
    Number(NumberKey),
    Size(SizeKey),
}

/// The operators; one that begins with another comes before it.
const OPERATORS: [(&str, Operator); 6] = [
    ("<=", Operator::Compare(Compare::AtMost)),
    (">=", Operator::Compare(Compare::AtLeast)),
    ("<", Operator::Compare(Compare::Less)),
    (">", Operator::Compare(Compare::More)),
    ("=", Operator::Equal),
    (":", Operator::Has),
];

#[derive(Clone, Copy)]
enum Operator {
    Has,
    Equal,
    Compare(Compare),
}

/// The units of bytes.
const UNITS: [(char, f64); 3] = [('K', 1024.0), ('M', 1_048_576.0), ('G', 1_073_741_824.0)];

/// Reads all terms of a filter.
pub(super) fn terms(text: &str) -> Result<Vec<Term>, FilterError> {
    let mut reader = Reader { text, at: 0 };
    let mut terms = Vec::new();
    while reader.skip_spaces() {
        terms.push(reader.term()?);
    }
    Ok(terms)
}

struct Reader<'t> {
    text: &'t str,
    /// How much of it is read, in bytes.
    at: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// Goes to the next term; returns whether there is one.
    fn skip_spaces(&mut self) -> bool {
        self.at = self.text.len() - self.rest().trim_start().len();
        !self.rest().is_empty()
    }

    /// An error at a place in bytes.
    fn error(&self, at: usize, problem: Problem) -> FilterError {
        FilterError { column: self.text[..at].chars().count() + 1, problem }
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        let negations = self.rest().len() - self.rest().trim_start_matches('!').len();
        self.at += negations;
        let (name, key) = self.key()?;
        let operator_at = self.at;
        let Some(operator) = self.operator() else {
            return Err(self.error(operator_at, Problem::NoOperator(name)));
        };
        let value_at = self.at;
        let value = self.value()?;
        let test = key.test(name, operator, value).map_err(|problem| {
            let at = if matches!(problem, Problem::Operator(..)) { operator_at } else { value_at };
            self.error(at, problem)
        })?;
        Ok(Term { negated: negations % 2 == 1, test })
    }

    fn key(&mut self) -> Result<(&'static str, Key), FilterError> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let found = KEYS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&rest[..end]));
        let Some((name, key)) = found else {
            // All of the word, so that the message shows `12` or `größe` as it was written.
            let word = rest.split(|c: char| c.is_whitespace() || "!:=<>".contains(c)).next().unwrap_or_default();
            return Err(self.error(self.at, Problem::Key(word.to_owned())));
        };
        self.at += end;
        Ok((name, *key))
    }

    fn operator(&mut self) -> Option<Operator> {
        let (sign, operator) = OPERATORS.iter().find(|(sign, _)| self.rest().starts_with(sign))?;
        self.at += sign.len();
        Some(*operator)
    }

    fn value(&mut self) -> Result<&'t str, FilterError> {
        let (begin, rest) = (self.at, self.rest());
        let Some(quoted) = rest.strip_prefix('"') else {
            let value = rest.split(char::is_whitespace).next().unwrap_or_default();
            self.at += value.len();
            return if value.is_empty() { Err(self.error(begin, Problem::NoValue)) } else { Ok(value) };
        };
        let Some((value, after)) = quoted.split_once('"') else {
            return Err(self.error(begin, Problem::Quote));
        };
        self.at = self.text.len() - after.len();
        match after.chars().next() {
            Some(next) if !next.is_whitespace() => Err(self.error(self.at, Problem::AfterQuote)),
            _ if value.is_empty() => Err(self.error(begin, Problem::NoValue)),
            _ => Ok(value),
        }
    }
}

impl Key {
    fn test(self, name: &'static str, operator: Operator, value: &str) -> Result<Test, Problem> {
        Ok(match self {
            Key::Text(key) => Test::Text(key, operator.text(name)?, value.to_owned()),
            Key::Word(key) => {
                let how = operator.text(name)?;
                if !key.words().any(|word| how.fits_word(word, value)) {
                    return Err(Problem::Word(key, value.to_owned()));
                }
                Test::Word(key, how, value.to_owned())
            }
            Key::Number(key) => {
                let number = value.parse().map_err(|_| Problem::Number(value.to_owned()))?;
                Test::Number(key, operator.compare(), number)
            }
            Key::Size(key) => {
                let amount = amount(value).ok_or_else(|| Problem::Size(value.to_owned()))?;
                Test::Size(key, operator.compare(), amount)
            }
        })
    }
}

impl Operator {
    fn text(self, key: &'static str) -> Result<Match, Problem> {
        match self {
            Operator::Has => Ok(Match::Part),
            Operator::Equal => Ok(Match::Whole),
            Operator::Compare(_) => Err(Problem::Operator(key)),
        }
    }

    fn compare(self) -> Compare {
        match self {
            Operator::Has | Operator::Equal => Compare::Equal,
            Operator::Compare(compare) => compare,
        }
    }
}

impl WordKey {
    /// All words that it can have.
    fn words(self) -> Box<dyn Iterator<Item = &'static str>> {
        match self {
            WordKey::Kind => Box::new(Kind::ALL.into_iter().map(Kind::word)),
            WordKey::State => Box::new(State::ALL.into_iter().map(State::word)),
            WordKey::Level => Box::new(Level::ALL.into_iter().map(Level::word)),
            WordKey::Guard => Box::new(Guard::WORDS.into_iter()),
            WordKey::Confidence => Box::new(Confidence::ALL.into_iter().map(Confidence::word)),
        }
    }
}

/// `4096`, `64K`, `1.5M`, `80%`; the letters in either case.
fn amount(value: &str) -> Option<Amount> {
    let number = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        text.parse::<f64>().ok().filter(|_| plain)
    };
    if let Some(percent) = value.strip_suffix('%') {
        return number(percent).map(Amount::Percent);
    }
    let last = value.chars().next_back()?.to_ascii_uppercase();
    match UNITS.iter().find(|(unit, _)| *unit == last) {
        Some((_, scale)) => Some(Amount::Bytes(number(&value[..value.len() - 1])? * scale)),
        None => number(value).map(Amount::Bytes),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Key(word) => {
                let keys: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
                write!(f, "there is no key '{word}'; the keys are {}", keys.join(" "))
            }
            Problem::NoOperator(key) => write!(f, "'{key}' needs an operator and a value, as in {}", example(key)),
            Problem::Operator(key) => write!(f, "'{key}' is no number: it goes with ':' and '='"),
            Problem::NoValue => write!(f, "a value is missing"),
            Problem::Quote => write!(f, "the closing quote is missing"),
            Problem::AfterQuote => write!(f, "a space is missing after the closing quote"),
            Problem::Word(key, value) => {
                let words: Vec<&str> = key.words().collect();
                write!(f, "'{value}' is none of {}", words.join(" "))
            }
            Problem::Number(value) => write!(f, "'{value}' is no whole number"),
            Problem::Size(value) => write!(f, "'{value}' is no size, as 4096, 64K, 1.5M or 80% are"),
        }
    }
}

/// A term with this key.
fn example(key: &str) -> String {
    match KEYS.iter().find(|(name, _)| *name == key) {
        Some((_, Key::Word(word))) => format!("{key}:{}", word.words().next().unwrap_or_default()),
        Some((_, Key::Number(_))) => format!("{key}:1042"),
        Some((_, Key::Size(_))) => format!("{key}>64K"),
        _ => format!("{key}:decode"),
    }
}
