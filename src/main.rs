//! The `ddu` command. `cli` holds one file per subcommand; everything else is the library.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
