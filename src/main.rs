//! The `polder` binary.

fn main() -> std::process::ExitCode {
    polder::cli::main()
}
