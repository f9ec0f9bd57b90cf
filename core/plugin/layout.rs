//! The essence of what abi_stable says about a library that does not fit.
//!
//! Its explanation of one changed field runs to a thousand lines: the whole type on both sides, then every type on the
//! way to it, then the same again. What a person needs is what was expected and what was found.

use abi_stable::library::LibraryError;

/// One sentence for a person.
pub(super) fn essence(error: &LibraryError) -> String {
    match error {
        LibraryError::AbiInstability(explanation) => {
            let differences = differences(&explanation.to_string());
            if differences.is_empty() {
                return "its types are laid out differently from the workbench's".to_owned();
            }
            format!("its types are laid out differently from the workbench's: {}", differences.join("; "))
        }
        LibraryError::IncompatibleVersionNumber { expected_version, actual_version, .. } => {
            format!("it was built on workbench-api {actual_version}, the workbench on {expected_version}")
        }
        LibraryError::InvalidAbiHeader(_) => "it was built on another version of abi_stable".to_owned(),
        LibraryError::GetSymbolError { .. } => "it exports the probe of a plugin, but no root module".to_owned(),
        LibraryError::RootModule { err, .. } => format!("its root module failed: {}", first_line(&err.to_string())),
        other => first_line(&other.to_string()),
    }
}

fn first_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason was given").to_owned()
}

/// The distinct `Error:` blocks of the explanation, each on one line: `what: expected …, found …`.
fn differences(explanation: &str) -> Vec<String> {
    const SHOWN: usize = 3;
    let mut found: Vec<String> = Vec::new();
    let mut lines = explanation.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(what) = line.strip_prefix("Error:") else { continue };
        let (mut expected, mut actual) = (String::new(), String::new());
        let mut part = None;
        for line in lines.by_ref() {
            match line {
                "Expected:" => part = Some(&mut expected),
                "Found:" => part = Some(&mut actual),
                "" => break,
                text => match &mut part {
                    // A value of many lines is a whole type; its first line names it.
                    Some(value) if value.is_empty() => value.push_str(text),
                    Some(_) => {}
                    None => break,
                },
            }
        }
        let difference = format!("{}: expected {expected}, found {actual}", what.trim());
        if !expected.is_empty() && !found.contains(&difference) {
            found.push(difference);
        }
    }
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found
}

#[cfg(test)]
mod tests {
    use abi_stable::StableAbi;
    use abi_stable::abi_stability::abi_checking::check_layout_compatibility;

    mod before {
        #[repr(C)]
        #[derive(abi_stable::StableAbi)]
        pub(super) struct View {
            pub(super) start: usize,
            pub(super) length: usize,
        }
    }

    mod after {
        #[repr(C)]
        #[derive(abi_stable::StableAbi)]
        pub(super) struct View {
            pub(super) start: usize,
            pub(super) length: u32,
        }
    }

    #[test]
    fn of_a_changed_field_the_types_are_left() {
        let error = check_layout_compatibility(before::View::LAYOUT, after::View::LAYOUT).unwrap_err();
        let found = super::differences(&error.to_string());
        assert!(found.iter().any(|line| line.contains("expected usize") && line.contains("found u32")), "{found:?}");
        assert!(found.iter().all(|line| line.lines().count() == 1 && line.len() < 300), "{found:?}");
    }
}
