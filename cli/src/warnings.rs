//! What the library warns of, on standard error: here nobody else hears it.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::output::plain;
use crate::run::talk;

/// Of the library and of its adapters.
const OURS: &str = "unanimous";

/// What a recovery pass has left is in its report, too.
const OF_PASSES: &str = "unanimous::pass";

/// From now on.
pub(crate) fn tell() {
    // Fails only if there is somebody who hears it already.
    drop(tracing::subscriber::set_global_default(Warnings));
}

struct Warnings;

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        *metadata.level() <= Level::WARN && target.starts_with(OURS) && target != OF_PASSES
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        let mut words = Words::default();
        event.record(&mut words);
        talk(&words.line());
    }

    /// Spans are not told: what an event is about is in its fields.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event's message and its fields.
#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            let comma = if self.fields.is_empty() { "" } else { ", " };
            write!(self.fields, "{comma}{}: {value:?}", field.name())
        };
        // A String takes everything.
        let _ = written;
    }
}

impl Words {
    fn line(&self) -> String {
        let (message, fields) = (plain(&self.message), plain(&self.fields));
        if fields.is_empty() {
            format!("warning: {message}")
        } else {
            format!("warning: {message} ({fields})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_one_line_that_cannot_steer_the_terminal() {
        let words = |message: &str, fields: &str| Words {
            message: message.to_owned(),
            fields: fields.to_owned(),
        };
        let line = words("it is late", "").line();
        assert_eq!(line, "warning: it is late");
        let line = words("it is\nlate", "error: \u{1b}[2J").line();
        assert_eq!(line, "warning: it is\u{fffd}late (error: \u{fffd}[2J)");
    }
}
