//! The checked-in code of the relay protocol is what the generator makes of the `.proto` file.

use std::fs;
use std::path::Path;

#[test]
fn generated_code_is_current() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = package
        .join(env!("CARGO_TARGET_TMPDIR"))
        .join("relay-generated");
    fs::create_dir_all(&out).expect("the target directory is writable");
    let descriptors = protox::compile(["relay.proto"], [package.join("proto")])
        .expect("proto/relay.proto compiles");
    tonic_prost_build::configure()
        .out_dir(&out)
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .expect("code is generated");
    let made = fs::read_to_string(out.join("tortie.relay.v2.rs")).expect("the generator wrote it");
    let kept = package.join("src/generated/tortie.relay.v2.rs");
    if std::env::var_os("TORTIE_REGENERATE").is_some() {
        fs::create_dir_all(kept.parent().expect("a file is in a folder")).expect("writable");
        fs::write(&kept, &made).expect("the source tree is writable");
    }
    let current = fs::read_to_string(&kept).unwrap_or_default();
    assert!(
        current == made,
        "src/generated/tortie.relay.v2.rs is not what proto/relay.proto makes; run \
         `TORTIE_REGENERATE=1 cargo test -p datastore-local --test generated`"
    );
}
