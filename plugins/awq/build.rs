//! Stamps the digest of the sources, which becomes part of every result's key.

fn main() {
    workbench_api::build::stamp_sources();
}
