//! Reading the command line: what is wrong with it is said in one line.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use super::Cli;
use crate::exit;

/// Reads the command line; prints help or a one-line error itself.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            // A closed pipe is the reader's business.
            let _ = error.print();
            ExitCode::from(code)
        }
        _ => {
            eprintln!(
                "lsvd-fuse: {} (`lsvd-fuse --help` explains)",
                first_paragraph(&error.to_string())
            );
            ExitCode::from(exit::USAGE)
        }
    })
}

/// The part of clap's message before its usage text, as one line.
fn first_paragraph(message: &str) -> String {
    let paragraph: Vec<&str> =
        message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    paragraph.join(" ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn clap_errors_become_one_line() {
        let error = Cli::try_parse_from(["lsvd-fuse", "create", "x"]).unwrap_err();
        let line = first_paragraph(&error.to_string());
        assert!(line.contains("--size <SIZE>"), "{line}");
        assert!(!line.contains('\n') && !line.starts_with("error"));
    }
}
