//! The command line: what was asked for, and whom to ask.
//!
//! Runtime commands are thin clients of the control socket and know nothing that its JSON does not say.

pub mod args;
pub mod client;
pub mod demo;
pub mod ipvsadm;
pub mod reload;
pub mod replay;
pub mod run;
pub mod set;
pub mod show;
pub mod sync;
pub mod sync_control;
pub mod table;
#[cfg(feature = "dpdk")]
mod take_over;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

pub use args::{Cli, Command};

/// Parses the command line and does what it says.
///
/// Exit status: 0 done, 1 not done, and what a subcommand's help adds. Usage errors are 1 too, since 2 means something
/// to those who call `check`.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if let Some(words) = ipvsadm_words(&words) {
        return ExitCode::from(ipvsadm::main(words.to_vec()));
    }
    match Cli::try_parse() {
        Ok(cli) => dispatch(cli.command),
        Err(e) => {
            // Nothing is left to tell if neither output can be written to.
            let _ = e.print();
            if e.use_stderr() {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            }
        }
    }
}

/// What is for ipvsadm's grammar: all behind that word, also when it is the name that the program was started under.
fn ipvsadm_words(words: &[String]) -> Option<&[String]> {
    let (program, rest) = words.split_first()?;
    let name = std::path::Path::new(program).file_name()?.to_str()?;
    match rest.split_first() {
        _ if name == "ipvsadm" => Some(rest),
        Some((first, rest)) if first == "ipvsadm" => Some(rest),
        _ => None,
    }
}

/// Does a command.
#[must_use]
pub fn dispatch(command: Command) -> ExitCode {
    let mut out = io::stdout().lock();
    match command {
        Command::Show(args) => finish(show::run(&args, &mut out)),
        Command::Set(args) => finish(set::run(&args, &mut out)),
        Command::Reload(args) => finish(reload::run(&args, &mut out)),
        Command::Replay(args) => finish(replay::run(&args, &mut out)),
        Command::Check(args) => check(&args, &mut out),
        Command::Run(args) => run::run(&args),
        Command::Sync(args) => finish(sync::run(&args, &mut out)),
        Command::Demo(args) => finish(demo::run(&args, &mut out)),
        Command::Ipvsadm(args) => ExitCode::from(ipvsadm::main(args.words)),
    }
}

fn check(args: &args::CheckArgs, out: &mut impl Write) -> ExitCode {
    let format = match args.format {
        args::CheckFormat::Text => crate::config::Format::Text,
        args::CheckFormat::Json => crate::config::Format::Json,
    };
    match crate::config::run_check(&args.config, format, out) {
        Ok(code) => ExitCode::from(code),
        // Who read the output went away: it has seen all that it wanted.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => finish(Err(format!("the result can't be written: {e}").into())),
    }
}

/// Why a command ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It failed; a sentence.
    Failed(String),
    /// Who read the output went away (`| head`): it has seen all that it wanted.
    ReaderGone,
}

impl From<String> for Failure {
    fn from(sentence: String) -> Self {
        Self::Failed(sentence)
    }
}

/// Tells what went wrong, if anything did.
#[must_use]
pub fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(Failure::Failed(e)) => {
            eprintln!("polder: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to the output.
///
/// # Errors
/// The output can't be written, or nobody reads it any more.
pub fn print(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::Failed(format!("can't write the output: {e}")),
        })
}

#[cfg(test)]
mod tests;
