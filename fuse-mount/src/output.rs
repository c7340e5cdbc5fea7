//! What commands print: JSON as it is, or the same as text for people.
//!
//! Every command produces one JSON value; text is a view of it. So both always agree, and a
//! daemon of another version can be asked.

use std::io::{self, IsTerminal, Write};

use lsvd_volume::CheckProgress;
use serde_json::Value;

use crate::control::protocol::Response;
use crate::sizes::show_bytes;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

/// Columns of a table: title and key.
pub(crate) type Columns = [(&'static str, &'static str)];

impl Output {
    /// Prints the value: as JSON, or as `text` makes it.
    pub(crate) fn print(
        self,
        value: &Value,
        text: impl FnOnce(&Value) -> String,
    ) -> io::Result<()> {
        let printed = if self.json { format!("{value:#}\n") } else { text(value) };
        match io::stdout().lock().write_all(printed.as_bytes()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => done,
        }
    }
}

/// One line of text.
pub(crate) fn line(text: impl Into<String>) -> String {
    let mut text = text.into();
    text.push('\n');
    text
}

/// A table of the objects in an array.
pub(crate) fn table(rows: &[Value], columns: &Columns) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            columns
                .iter()
                .map(|(_, key)| cell(key, row.pointer(key).unwrap_or(&Value::Null)))
                .collect()
        })
        .collect();
    let width = |index: usize| {
        let title = columns.get(index).map_or(0, |(title, _)| title.chars().count());
        cells
            .iter()
            .filter_map(|row| row.get(index))
            .map(|cell| cell.chars().count())
            .fold(title, usize::max)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let titles: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(&cells) {
        let padded: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// An object as `key: value` lines, nested ones indented.
pub(crate) fn fields(value: &Value) -> String {
    let mut text = String::new();
    write_fields(&mut text, value, 0);
    text
}

fn write_fields(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::Null => {}
                    Value::Object(_) => {
                        text.push_str(&format!("{indent}{key}:\n"));
                        write_fields(text, value, depth + 1);
                    }
                    Value::Array(items)
                        if items.iter().any(|item| item.is_object() || item.is_array()) =>
                    {
                        text.push_str(&format!("{indent}{key}:\n"));
                        write_fields(text, value, depth + 1);
                    }
                    _ => text.push_str(&format!("{indent}{key}: {}\n", cell(key, value))),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Object(map) => {
                        let parts: Vec<String> = map
                            .iter()
                            .filter(|(_, value)| !value.is_null())
                            .map(|(key, value)| format!("{key} {}", cell(key, value)))
                            .collect();
                        text.push_str(&format!("{indent}- {}\n", parts.join(", ")));
                    }
                    other => text.push_str(&format!("{indent}- {}\n", cell("", other))),
                }
            }
        }
        other => text.push_str(&format!("{indent}{}\n", cell("", other))),
    }
}

fn cell(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if key.ends_with("bytes") && bytes >= 1024 => {
                format!("{} ({bytes})", show_bytes(bytes))
            }
            Some(mode) if key == "mode" => format!("{mode:04o}"),
            _ => number.to_string(),
        },
        Value::Array(items) => {
            items.iter().map(|item| cell("", item)).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Shows how much is left while something drains, on stderr: in place on a terminal, otherwise
/// a line every few seconds.
pub(crate) struct Progress {
    started: std::time::Instant,
    shown: Option<std::time::Instant>,
    first: Option<u64>,
    terminal: bool,
}

impl Progress {
    /// Nothing is shown yet.
    pub(crate) fn new() -> Self {
        Self {
            started: std::time::Instant::now(),
            shown: None,
            first: None,
            terminal: io::stderr().is_terminal(),
        }
    }

    /// What a daemon tells meanwhile.
    pub(crate) fn show_response(&mut self, response: &Response) {
        match response {
            Response::Progress { dirty_bytes } => self.show(*dirty_bytes),
            Response::Flattening { left_bytes } => self.show_text(|_| {
                format!("{} are still to be copied from its base", show_bytes(*left_bytes))
            }),
            Response::Collecting(report) => self.show_text(|_| {
                let (data, live) = (show_bytes(report.data_bytes), show_bytes(report.live_bytes));
                let percent = report.utilisation_percent;
                let moved = show_bytes(report.moved_bytes);
                format!("{percent}% needed: {live} of {data} in the store; {moved} moved so far")
            }),
            // Most checks are over before anybody wonders.
            Response::Checking(_) if self.started.elapsed().as_millis() < 1000 => {}
            Response::Checking(still) => self.show_text(|seconds| {
                let CheckProgress { volume, phase, done, total, read_bytes, damage } = still;
                let of = if *total > 0 { format!(" of {total}") } else { String::new() };
                let rate = show_bytes((*read_bytes as f64 / seconds) as u64);
                let read = show_bytes(*read_bytes);
                let name = if volume.is_empty() { "all volumes" } else { volume };
                format!("{name}: {phase}: {done}{of}; {read} read, {rate}/s; {damage} damaged")
            }),
            Response::Done(_) | Response::Failed { .. } => {}
        }
    }

    /// So much is left; nothing is shown where that is nothing.
    pub(crate) fn show(&mut self, left: u64) {
        if left == 0 {
            return;
        }
        let first = *self.first.get_or_insert(left);
        self.show_text(|seconds| {
            let rate = match first.saturating_sub(left) {
                0 => String::new(),
                sent => format!(", {}/s", show_bytes((sent as f64 / seconds) as u64)),
            };
            format!("{} left for the store{rate}", show_bytes(left))
        });
    }

    /// Shows a text, unless the last one was shown a moment ago. It is told the seconds since the
    /// beginning.
    fn show_text(&mut self, text: impl FnOnce(f64) -> String) {
        let pause = if self.terminal { 200 } else { 3000 };
        if self.shown.is_some_and(|at| at.elapsed().as_millis() < pause) {
            return;
        }
        self.shown = Some(std::time::Instant::now());
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let text = text(seconds);
        let written = if self.terminal {
            write!(io::stderr(), "\r\x1b[K{text}")
        } else {
            writeln!(io::stderr(), "lsvd-fuse: {text}")
        };
        // Without a reader there is nobody to show progress to.
        drop(written);
    }

    /// Leaves the line clean.
    pub(crate) fn end(&mut self) {
        if self.terminal && self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_line_up() {
        let rows = [
            json!({"name": "a", "size_bytes": 4096}),
            json!({"name": "longer", "size_bytes": null}),
        ];
        let text = table(&rows, &[("NAME", "/name"), ("SIZE", "/size_bytes")]);
        assert_eq!(text, "NAME    SIZE\na       4 KiB (4096)\nlonger  -\n");
    }

    #[test]
    fn fields_are_indented_and_nulls_left_out() {
        let text =
            fields(&json!({"a": 1, "b": {"mode": 420, "c": null}, "d": [{"x": 1, "y": "z"}]}));
        assert_eq!(text, "a: 1\nb:\n  mode: 0644\nd:\n  - x 1, y z\n");
    }
}
