//! What a new plugin's crate is made of. That it builds and runs is tested with the program.

use super::super::{ApiSource, new};

#[test]
fn names_folders_and_sources_are_checked() {
    let parent = tempfile::tempdir().unwrap();
    let refused = |name: &str, source: &ApiSource| new(name, parent.path(), source).unwrap_err();
    assert_eq!(refused("Große", &ApiSource::default()).message, "`Große` cannot be the name of a plugin");
    assert_eq!(refused("2x", &ApiSource::default()).hints.len(), 1);
    let nowhere = refused("a", &ApiSource::Folder("/no/such/folder".into()));
    assert_eq!(nowhere.message, "`/no/such/folder` does not hold the workbench's sources");
    assert!(!parent.path().join("a").exists());

    let git = ApiSource::Git { url: "https://example.org/w".to_owned(), revision: Some("1234".to_owned()) };
    new("a-b", parent.path(), &git).unwrap();
    let read = |file: &str| std::fs::read_to_string(parent.path().join("a-b").join(file)).unwrap();
    assert!(read("Cargo.toml").contains(r#"workbench-api = { git = "https://example.org/w", rev = "1234" }"#));
    assert!(read("src/lib.rs").contains("struct ABPlugin(Parameters);"));
    assert!(refused("a-b", &git).message.ends_with("exists already"));
}
