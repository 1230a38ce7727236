//! The configuration of the screen: `stackscope/config.toml` in `$XDG_CONFIG_HOME`, or in `~/.config`.
//!
//! Options on the command line take precedence. A faulty file is reported in one sentence, and nothing is started.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use crate::filter::Filter;
use crate::tui::Theme;

/// What the file may say.
#[derive(Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// The name of a theme.
    #[serde(default, deserialize_with = "theme")]
    pub(super) theme: Option<Theme>,
    /// Whether only ASCII is written.
    #[serde(default)]
    pub(super) ascii: bool,
    /// Whether the mouse is taken.
    pub(super) mouse: Option<bool>,
    /// Whether the screen of `run` stays when the program has ended.
    #[serde(default)]
    pub(super) stay: bool,
    /// Which stacks are shown at first.
    #[serde(default, deserialize_with = "filter")]
    pub(super) filter: Filter,
}

/// The configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    /// The file exists and can't be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It is not what it should be.
    #[error("{}: {}", .0.display(), one_line(.1))]
    Wrong(PathBuf, toml::de::Error),
}

/// What is wrong, and where, without the excerpt that would take several lines.
fn one_line(error: &toml::de::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned() + ": " + error.message()
}

impl Config {
    /// Reads the file; if there is none, returns an empty configuration.
    pub(super) fn read() -> Result<Config, ConfigError> {
        let Some(path) = path() else { return Ok(Config::default()) };
        match std::fs::read_to_string(&path) {
            Ok(text) => Config::parse(&text).map_err(|error| ConfigError::Wrong(path, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
            Err(error) => Err(ConfigError::Read(path, error)),
        }
    }

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }
}

/// Where the file lies (XDG Base Directory Specification, 0.8): a folder that is not absolute does not count.
fn path() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let configuration = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))?;
    Some(configuration.join("stackscope/config.toml"))
}

fn theme<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Theme>, D::Error> {
    let name = String::deserialize(from)?;
    let found = Theme::ALL.into_iter().find(|theme| theme.name() == name);
    found.map(Some).ok_or_else(|| serde::de::Error::custom(format!("no theme is called '{name}'")))
}

fn filter<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Filter, D::Error> {
    let text = String::deserialize(from)?;
    Filter::parse(&text).map_err(|error| serde::de::Error::custom(format!("the filter is wrong at {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_is_read() {
        let text = "theme = \"colorblind\"\nascii = true\nmouse = false\nstay = true\nfilter = \"kind:thread\"\n";
        let config = Config::parse(text).unwrap();
        assert_eq!((config.theme, config.ascii, config.mouse), (Some(Theme::ColorBlind), true, Some(false)));
        assert!(config.stay && config.filter.to_string() == "kind:thread");
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn what_is_wrong_is_told_in_one_sentence() {
        let cases = [
            ("theme = \"pink\"", "no theme is called 'pink'"),
            ("colour = 1", "unknown field `colour`"),
            ("filter = \"pork>3\"", "column 1: there is no key 'pork'"),
            ("theme =", "line 1"),
        ];
        for (text, expected) in cases {
            let told = one_line(&Config::parse(text).unwrap_err());
            assert!(told.contains(expected) && !told.contains('\n'), "{told}");
        }
    }
}
