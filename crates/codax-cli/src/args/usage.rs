//! What is wrong with what was typed, in one line.

use clap::error::ErrorKind;
use codax_core::Error;

/// The error that a mistake on the command line is; prints help or the version, and ends the program, if it is those that were asked for.
pub fn mistake(error: &clap::Error) -> Error {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => Error::invalid(one_line(&error.render().to_string())),
    }
}

/// A message of several paragraphs in one line: what is wrong, hints, and where the command's words are told.
fn one_line(message: &str) -> String {
    let mut command = "codax".to_owned();
    let mut said = Vec::new();
    for paragraph in message.trim().split("\n\n") {
        if let Some(usage) = paragraph.strip_prefix("Usage: ") {
            let words = usage.split_whitespace().take_while(|word| !word.starts_with(['<', '[', '-']));
            command = words.collect::<Vec<_>>().join(" ");
        } else if !paragraph.starts_with("For more information") {
            let words: Vec<&str> = paragraph.trim_start_matches("error: ").split_whitespace().collect();
            said.push(words.join(" "));
        }
    }
    format!("{} (see {command} --help)", said.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::CommandFactory;

    fn line(words: &[&str]) -> String {
        let all = ["codax"].iter().chain(words);
        let error = Cli::command().try_get_matches_from(all).expect_err("it makes no sense");
        mistake(&error).message
    }

    #[test]
    fn a_mistake_is_one_line_that_names_it_and_the_command() {
        for (words, says) in [
            (
                &["mv", "/a"][..],
                "the following required arguments were not provided: <TO> (see codax mv --help)",
            ),
            (
                &["quotaa"],
                "unrecognized subcommand 'quotaa'; tip: a similar subcommand exists: 'quota' (see codax --help)",
            ),
            (&["device", "drain", "a", "b"], "unexpected argument 'b' found (see codax device drain --help)"),
        ] {
            assert_eq!(line(words), says);
        }
        let both = line(&["placement", "/a", "--emergency", "--no-emergency"]);
        assert!(both.contains("--emergency") && both.ends_with("(see codax placement --help)"), "{both}");
    }
}
