//! The screen of `run` and `attach`: whether there is one, and what it looks like.

use std::time::Duration;

use super::config::{Config, ConfigError};
use super::{Common, output};
use crate::tui;

/// Options of the verbs that show a screen.
#[derive(clap::Args, Debug)]
pub(super) struct Screen {
    /// Show no screen: report at the end only
    #[arg(
        long,
        long_help = "Show no screen: report at the end only. That is also so if there is no terminal, if both \
                     stdout and stderr are redirected, with TERM=dumb, if CI is set, and in the background."
    )]
    no_tui: bool,

    /// Leave the mouse to the terminal, which selects text with it
    #[arg(long)]
    no_mouse: bool,

    /// Colours of the screen [default: ansi]
    #[arg(long, value_name = "THEME")]
    theme: Option<Theme>,
}

/// What the screen is coloured with.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Theme {
    /// The terminal's own sixteen colours; none with NO_COLOR or --color never.
    Ansi,
    /// Light colours, for a dark background.
    Dark,
    /// Dark colours, for a light background.
    Light,
    /// Colours that people of any colour vision tell apart.
    #[value(name = "colorblind")]
    ColorBlind,
    /// None.
    Mono,
}

impl Theme {
    fn theme(self) -> tui::Theme {
        match self {
            Theme::Ansi => tui::Theme::Ansi,
            Theme::Dark => tui::Theme::Dark,
            Theme::Light => tui::Theme::Light,
            Theme::ColorBlind => tui::Theme::ColorBlind,
            Theme::Mono => tui::Theme::Mono,
        }
    }
}

impl Screen {
    /// What the screen is to be like; `None` if there is to be none.
    ///
    /// # Errors
    /// The configuration can't be used.
    pub(super) fn options(
        &self,
        common: &Common,
        interval: Duration,
        margin: f64,
    ) -> Result<Option<tui::Options>, ConfigError> {
        if self.no_tui || !tui::is_usable() {
            return Ok(None);
        }
        let config = Config::read()?;
        let style = output::screen_style(common);
        let chosen = self.theme.map(Theme::theme).or(config.theme).unwrap_or(tui::Theme::Ansi);
        let theme = if style.color { chosen } else { tui::Theme::Mono };
        let look = tui::Look { theme, ascii: style.ascii || config.ascii };
        let mouse = !self.no_mouse && config.mouse != Some(false);
        Ok(Some(tui::Options { interval, look, stay: config.stay, mouse, margin, filter: config.filter }))
    }
}
