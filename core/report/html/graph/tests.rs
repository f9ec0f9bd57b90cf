use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::*;

fn graph(nodes: usize, edges: &[(usize, usize)]) -> GraphPicture {
    let node = |i: usize| GraphNode {
        id: format!("n{i}"),
        label: format!("node {i}"),
        kind: "k".into(),
        state: "done".into(),
    };
    GraphPicture {
        nodes: (0..nodes).map(node).collect(),
        edges: edges.iter().map(|(a, b)| (format!("n{a}"), format!("n{b}"))).collect(),
    }
}

fn random(seed: u64, nodes: usize) -> GraphPicture {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut edges = Vec::new();
    for to in 1..nodes {
        for _ in 0..1 + generator.next_u32() % 2 {
            edges.push((generator.next_u32() as usize % to, to));
        }
    }
    graph(nodes, &edges)
}

#[test]
fn nodes_stand_right_of_what_they_need_and_never_overlap() {
    for seed in 0..20 {
        let graph = random(seed, 30);
        let layout = Layout::new(&graph);
        for route in &layout.routes {
            for pair in route.windows(2) {
                assert_eq!(layout.layer[pair[1]], layout.layer[pair[0]] + 1);
            }
        }
        let placed: usize = layout.order.iter().map(Vec::len).sum();
        assert_eq!(placed, layout.slots.len());
        for order in &layout.order {
            for pair in order.windows(2) {
                let room = (layout.extent(pair[0]) + layout.extent(pair[1])) / 2.0 + GAP_Y;
                assert!(layout.y[pair[1]] - layout.y[pair[0]] >= room - 1e-6);
            }
        }
        assert!(layout.order.iter().flatten().all(|slot| layout.y[*slot] - layout.extent(*slot) / 2.0 >= -1e-6));
    }
}

/// Two pairs that are listed crosswise need not cross, and K(2,2) crosses once however it is drawn.
#[test]
fn needless_crossings_are_undone() {
    let pairs = Layout::new(&graph(6, &[(0, 5), (1, 4), (2, 3)]));
    assert_eq!(pairs.crossings(), 0);
    assert_eq!(Layout::new(&graph(4, &[(0, 2), (0, 3), (1, 2), (1, 3)])).crossings(), 1);
    // Trees can always be drawn without.
    for seed in 0..10 {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let edges: Vec<(usize, usize)> = (1..25).map(|to| (generator.next_u32() as usize % to, to)).collect();
        assert_eq!(Layout::new(&graph(25, &edges)).crossings(), 0, "{edges:?}");
    }
}

/// A straight chain is drawn straight, a fan around its root.
#[test]
fn simple_shapes_look_simple() {
    let chain = Layout::new(&graph(4, &[(0, 1), (1, 2), (2, 3)]));
    assert!(chain.y.iter().all(|y| (y - chain.y[0]).abs() < 1e-9));
    let fan = Layout::new(&graph(4, &[(0, 1), (0, 2), (0, 3)]));
    assert!((fan.y[0] - (fan.y[1] + fan.y[2] + fan.y[3]) / 3.0).abs() < 1e-6);
}

/// Isotonic regression has a closed form: the i-th value is the largest over j <= i of the smallest over k >= i of the
/// mean of the wishes j..=k.
#[test]
fn settling_is_isotonic_regression() {
    let mut generator = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..50 {
        let n = 1 + generator.next_u32() as usize % 8;
        let mut layout = Layout::new(&graph(n, &[]));
        let order: Vec<usize> = (0..n).collect();
        let wishes: Vec<f64> = (0..n).map(|_| f64::from(generator.next_u32() % 300)).collect();
        layout.settle(&order, &wishes);
        let distance = HEIGHT + GAP_Y;
        let shifted: Vec<f64> = wishes.iter().enumerate().map(|(i, wish)| wish - i as f64 * distance).collect();
        for i in 0..n {
            let mean = |j: usize, k: usize| shifted[j..=k].iter().sum::<f64>() / (k - j + 1) as f64;
            let smallest = |j: usize| (i..n).map(|k| mean(j, k)).fold(f64::INFINITY, f64::min);
            let value = (0..=i).map(smallest).fold(f64::NEG_INFINITY, f64::max);
            assert!((layout.y[i] - (value + i as f64 * distance)).abs() < 1e-9);
        }
    }
}

#[test]
fn wrong_graphs_are_still_drawn() {
    let mut cyclic = graph(4, &[(0, 1), (1, 2), (2, 1), (2, 3)]);
    cyclic.edges.push(("n0".into(), "nowhere".into()));
    cyclic.edges.push(("n0".into(), "n0".into()));
    cyclic.edges.push(("n0".into(), "n1".into()));
    let svg = picture(&cyclic);
    assert_eq!(svg.matches("<g class=\"node").count(), 4);
    // Of the cycle the one edge stays that points to the right.
    assert_eq!(svg.matches("<path").count(), 2);
    assert!(!svg.contains("NaN"));
    assert_eq!(picture(&GraphPicture::default()).matches("<g").count(), 0);
}

#[test]
fn long_labels_are_shortened_and_kept_in_the_title() {
    let mut long = graph(1, &[]);
    long.nodes[0].label = "量化 quantize <with> a label that does not fit".into();
    let svg = picture(&long);
    assert!(svg.contains("<title>量化 quantize &lt;with&gt; a label that does not fit"));
    assert!(svg.contains("量化 quantize &lt;with&gt; a…</text>"), "{svg}");
}
