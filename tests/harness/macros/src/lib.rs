//! The attribute of `harness`. A package of its own because a procedural macro must be one.

use proc_macro::{TokenStream, TokenTree};

/// Makes a function a test of the harness: a plain one, or an async one, which gets a tokio runtime of its own on one thread.
///
/// With `#[macro_use] extern crate harness;` it takes the place of the built-in attribute in the whole test program, which a program with
/// `harness = false` drops without a word.
#[proc_macro_attribute]
pub fn test(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut words = item.clone().into_iter().filter_map(|token| match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    });
    let mut is_async = false;
    let name = loop {
        match words.next().as_deref() {
            Some("async") => is_async = true,
            Some("fn") => break words.next(),
            Some(_) => {}
            None => break None,
        }
    };
    let Some(name) = name else {
        let fault = "compile_error!(\"#[test] stands above a function\");";
        return fault.parse().expect("a literal");
    };
    let body = if is_async { "waits" } else { "plain" };
    let entry = format!(
        "::harness::inventory::submit! {{
            ::harness::Test::new(
                ::core::module_path!(),
                ::core::stringify!({name}),
                || ::harness::{body}({name}()),
            )
        }}"
    );
    let entry: TokenStream = entry.parse().expect("Rust, written above");
    item.into_iter().chain(entry).collect()
}
