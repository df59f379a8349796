//! Standard output, which may be closed before everything is written: `tortiectl get nodes | head -1`.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// Writes, and ends the program when nobody reads any more: with success, as there is nobody to tell. Any other failure is
/// said on standard error.
pub(crate) fn print(text: Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("standard output: {error}");
            std::process::exit(1);
        }
    }
}

/// As `print!` of std, by [`print`].
macro_rules! out {
    ($($text:tt)*) => { $crate::print::print(format_args!($($text)*)) };
}

/// As `println!` of std, by [`print`].
macro_rules! outln {
    ($($text:tt)*) => { $crate::print::print(format_args!("{}\n", format_args!($($text)*))) };
}

pub(crate) use {out, outln};
