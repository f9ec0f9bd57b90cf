//! Stamps the digest of the plugin's sources, which is part of every result's key.

fn main() {
    workbench_api::build::stamp_sources();
}
