//! The README shows a whole program; this file holds it to the example that is compiled and run.

use std::fs;
use std::path::Path;

#[test]
fn the_program_in_the_readme_is_the_example_that_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("there is a README");
    let example = fs::read_to_string(root.join("examples/account.rs")).expect("there is the example");

    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a Rust block");

    assert_eq!(shown, example);
}
