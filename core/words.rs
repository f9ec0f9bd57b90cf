//! Words of messages.

/// `1 node`, `2 nodes`.
pub(crate) fn plural(number: usize, noun: &str) -> String {
    format!("{number} {}", nouns(number, noun))
}

/// The noun in the number that a count wants.
pub(crate) fn nouns(number: usize, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => noun.to_owned(),
        (_, Some(stem)) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ => format!("{noun}s"),
    }
}

/// Names in a sentence: `a, b and c`; of more than `most` only the first, with the number of the others.
pub(crate) fn listed(names: &[String], most: usize) -> String {
    let more = format!("{} more", names.len().saturating_sub(most));
    let shown: Vec<&str> = match names.len() > most {
        true => names[..most].iter().chain([&more]).map(String::as_str).collect(),
        false => names.iter().map(String::as_str).collect(),
    };
    match shown.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        few => few.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_their_nouns() {
        assert_eq!([0, 1, 2].map(|n| plural(n, "node")), ["0 nodes", "1 node", "2 nodes"]);
        assert_eq!([1, 2].map(|n| plural(n, "query")), ["1 query", "2 queries"]);
        assert_eq!(plural(2, "day"), "2 days");
    }

    #[test]
    fn lists() {
        let names = |n: usize| (0..n).map(|i| format!("n{i}")).collect::<Vec<_>>();
        assert_eq!(
            ["", "n0", "n0 and n1", "n0, n1 and n2"].map(str::to_owned),
            [0, 1, 2, 3].map(|n| listed(&names(n), 3))
        );
        assert_eq!(listed(&names(5), 2), "n0, n1 and 3 more");
    }
}
