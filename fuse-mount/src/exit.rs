//! How the program ends: 0 done, 1 it failed, 2 it was asked wrongly.
//!
//! Every failure is one line on stderr that names the thing and the way out.

use std::fmt;
use std::process::ExitCode;

use lsvd_store::StoreError;
use lsvd_volume::Error;

/// The command could not do what was asked.
pub(crate) const FAILURE: u8 = 1;

/// What was asked makes no sense: a bad name, size, flag or setting.
pub(crate) const USAGE: u8 = 2;

/// An error in what the user wrote. Carried inside `anyhow::Error` to choose the exit code.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// An error in what the user wrote.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    UsageError(message.into()).into()
}

/// The exit code that `error` deserves.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    let asked_wrongly = error.chain().any(|cause| {
        cause.is::<UsageError>()
            || matches!(
                cause.downcast_ref::<Error>(),
                Some(Error::BadName { .. } | Error::BadSize { .. })
            )
            || matches!(cause.downcast_ref::<StoreError>(), Some(StoreError::BadUrl { .. }))
    });
    if asked_wrongly { USAGE } else { FAILURE }
}

/// The error and its causes in one line, without saying anything twice.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

/// Prints the error and chooses the code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("lsvd-fuse: {}", one_line(error));
    ExitCode::from(code_of(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn bad_names_are_usage_errors_however_deep() {
        let bad = Error::BadName { kind: "volume", name: "a/b".into(), reason: "holds a slash" };
        let error = Err::<(), _>(bad).context("cannot create").unwrap_err();
        assert_eq!(code_of(&error), USAGE);
        assert_eq!(code_of(&usage("x")), USAGE);
        assert_eq!(code_of(&Error::NoSuchVolume("a".into()).into()), FAILURE);
    }

    #[test]
    fn one_line_stays_one_line() {
        let error = anyhow::anyhow!("first\n  second").context("outer");
        assert_eq!(one_line(&error), "outer: first second");
    }
}
