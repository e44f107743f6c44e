//! The `ringback` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringback::cli::main()
}
