//! Heat maps: which cells are coloured, and what each says.

use super::synthetic::*;
use super::*;

fn page(table: &Table) -> String {
    html(&Analysis::new(table).unwrap()).unwrap()
}

/// The figure of a title.
fn figure<'a>(page: &'a str, title: &str) -> &'a str {
    let begin = page.find(&format!("<figcaption>{title}<small>")).unwrap_or_else(|| panic!("no figure {title}"));
    page[begin..].split("</figure>").next().unwrap()
}

#[test]
fn every_metric_of_the_rows_is_drawn_over_both_labels() {
    let page = page(&sensitivity());
    for title in ["wikitext ΔNLL: kind by block", "wikitext KL: kind by block", "world Δ acc: kind by block"] {
        let map = figure(&page, title);
        assert_eq!(map.matches("<g class=\"tile").count() - map.matches("class=\"swatch\"").count(), 9, "{title}");
        for label in [">q_proj<", ">down_proj<", ">0<", ">2<", ">all<", ">kind<", ">block<"] {
            assert!(map.contains(label), "{title} lacks {label}");
        }
    }
    // The distance to the reference is no loss of agreement: there is no map of that.
    assert!(!page.contains("top-1 %: kind by block"));
}

#[test]
fn a_colour_is_a_difference_that_was_found() {
    let table = sensitivity();
    let page = page(&table);
    let map = figure(&page, "wikitext ΔNLL: kind by block");
    let tile = |name: &str| {
        let title = map.split("<g class=\"tile ").find(|tile| tile.contains(&format!("<title>{name}:"))).unwrap();
        (title.split('"').next().unwrap().to_owned(), title.contains("*</text>"))
    };
    assert_eq!(tile("kind down_proj, block 2"), ("worse".to_owned(), true));
    assert_eq!(tile("kind q_proj, block 0"), ("chance".to_owned(), false));
    // More of the model than a cell: named, starred, and not coloured.
    assert_eq!(tile("kind all, block all"), ("apart".to_owned(), true));
    assert!(map.contains("p ≤ 0.05 after Holm&#39;s adjustment over 9 comparisons"), "{map}");
    assert!(map.contains("nats per token"));
    // A tooltip has the value, its interval and the adjusted p-value.
    let title = map.split("<title>kind down_proj, block 2: ").nth(1).unwrap().split("</title>").next().unwrap();
    assert!(
        title.starts_with("p ") && title.contains(", +0.2") && title.contains('[') && title.ends_with("nats per token"),
        "{title}"
    );

    let kl = figure(&page, "wikitext KL: kind by block");
    assert!(kl.contains("no cell is tested against zero") && !kl.contains('*'), "{kl}");
}

#[test]
fn without_cells_or_tests_a_map_says_so() {
    let mut table = sensitivity();
    table.contrasts = vec![contrast(json!({"kind": "q_proj"}), json!({"kind": "down_proj"}))];
    let declared = page(&table);
    assert!(figure(&declared, "wikitext ΔNLL: kind by block").contains("leaves zero out, not adjusted"));
    // Nothing to draw: all rows stand apart.
    table.rows.truncate(2);
    table.contrasts.clear();
    assert!(!page(&table).contains("kind by block"));
    table.heat_maps.clear();
    assert!(!page(&sensitivity()).is_empty() && !page(&table).contains("Heat maps"));
}
