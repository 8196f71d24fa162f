//! Tells cargo that the embedded migrations are a source: a new file in that folder changes no
//! other file.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
