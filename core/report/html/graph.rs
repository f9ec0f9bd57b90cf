//! The run's graph as a layered drawing: data flows from left to right, every node stands right of all it depends on.

mod short;

use std::collections::HashMap;

use super::super::input::{GraphNode, GraphPicture};
use super::escape;

const WIDTH: f64 = 190.0;
const HEIGHT: f64 = 40.0;
const GAP_X: f64 = 52.0;
const GAP_Y: f64 = 14.0;
/// Vertical room of an edge that passes through a layer.
const PASS: f64 = 12.0;
/// Columns of text that fit into a node.
const LABEL_COLUMNS: usize = 23;

/// Rounds of sorting; the drawing of a few hundred nodes stays a matter of milliseconds.
const SWEEPS: usize = 12;

/// A place in a layer: a node, or an edge on its way past it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Node(usize),
    Pass,
}

/// Layers with the order and height of their slots.
struct Layout {
    /// Slots by number.
    slots: Vec<Slot>,
    /// Layer of each slot.
    layer: Vec<usize>,
    /// Slot numbers of each layer, from top to bottom.
    order: Vec<Vec<usize>>,
    /// Links between slots of neighbouring layers, left to right.
    links: Vec<(usize, usize)>,
    /// The slots that each edge runs through, both ends included.
    routes: Vec<Vec<usize>>,
    /// Vertical centre of each slot.
    y: Vec<f64>,
}

/// Draws the graph as one `<svg>`.
pub(super) fn picture(graph: &GraphPicture) -> String {
    let layout = Layout::new(graph);
    let layers = layout.order.len();
    let half = |slot: &usize| layout.extent(*slot) / 2.0;
    let bottom = (0..layout.slots.len()).map(|slot| layout.y[slot] + half(&slot)).fold(0.0, f64::max);
    let (width, height) = (layers as f64 * (WIDTH + GAP_X) - GAP_X + 4.0, bottom + 4.0);
    let mut svg = format!(
        "<svg role=\"img\" aria-label=\"graph of the run\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\">\n"
    );
    for route in &layout.routes {
        svg += &edge(&layout, route);
    }
    let labels: Vec<&str> = graph.nodes.iter().map(|node| node.label.as_str()).collect();
    let labels = short::distinct(&labels, LABEL_COLUMNS);
    for (slot, kind) in layout.slots.iter().enumerate() {
        if let Slot::Node(index) = kind {
            svg += &node(&graph.nodes[*index], &labels[*index], layout.x(slot), layout.y[slot] - HEIGHT / 2.0 + 2.0);
        }
    }
    svg + "</svg>\n"
}

fn edge(layout: &Layout, route: &[usize]) -> String {
    let mut path = String::new();
    for pair in route.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let from = layout.x(a) + WIDTH;
        let (to, y0, y1) = (layout.x(b), layout.y[a] + 2.0, layout.y[b] + 2.0);
        if path.is_empty() {
            path = format!("M{from:.1} {y0:.1}");
        } else {
            // Across the layer that the edge only passes.
            path += &format!("H{from:.1}");
        }
        let middle = (from + to) / 2.0;
        path += &format!("C{middle:.1} {y0:.1} {middle:.1} {y1:.1} {to:.1} {y1:.1}");
    }
    format!("<path class=\"edge\" d=\"{path}\"/>\n")
}

fn node(node: &GraphNode, label: &str, x: f64, y: f64) -> String {
    let class = match node.state.as_str() {
        "failed" => " failed",
        "skipped" | "pending" | "waiting" | "missing" => " waiting",
        _ => "",
    };
    let kind = if node.state.is_empty() { node.kind.clone() } else { format!("{} · {}", node.kind, node.state) };
    format!(
        "<g class=\"node{class}\" transform=\"translate({x:.1} {y:.1})\"><title>{}</title><rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"7\"/><text class=\"label\" x=\"10\" y=\"17\">{}</text><text class=\"kind\" x=\"10\" y=\"32\">{}</text></g>\n",
        escape(&format!("{} ({kind}) {}", node.label, node.id)),
        escape(label),
        escape(&short::shorten(&kind, LABEL_COLUMNS + 3)),
    )
}

impl Layout {
    fn new(graph: &GraphPicture) -> Self {
        let numbers: HashMap<&str, usize> =
            graph.nodes.iter().enumerate().map(|(i, node)| (node.id.as_str(), i)).collect();
        let mut edges: Vec<(usize, usize)> = Vec::new();
        for (from, to) in &graph.edges {
            if let (Some(&from), Some(&to)) = (numbers.get(from.as_str()), numbers.get(to.as_str())) {
                edges.push((from, to));
            }
        }
        edges.retain(|(from, to)| from != to);
        edges.sort_unstable();
        edges.dedup();
        let depth = depths(graph.nodes.len(), &edges);
        // An edge inside a cycle would point backwards; a run's graph has none, and a wrong one is still drawn.
        edges.retain(|(from, to)| depth[*from] < depth[*to]);
        let mut layout = Self {
            slots: (0..graph.nodes.len()).map(Slot::Node).collect(),
            layer: depth,
            order: Vec::new(),
            links: Vec::new(),
            routes: Vec::new(),
            y: Vec::new(),
        };
        for (from, to) in edges {
            layout.route(from, to);
        }
        layout.order = vec![Vec::new(); layout.layer.iter().max().map_or(0, |last| last + 1)];
        for slot in 0..layout.slots.len() {
            layout.order[layout.layer[slot]].push(slot);
        }
        layout.sort_layers();
        layout.place();
        layout
    }

    /// Runs an edge through a passing slot in every layer between its ends.
    fn route(&mut self, from: usize, to: usize) {
        let mut route = vec![from];
        for layer in self.layer[from] + 1..self.layer[to] {
            self.slots.push(Slot::Pass);
            self.layer.push(layer);
            route.push(self.slots.len() - 1);
        }
        route.push(to);
        self.links.extend(route.windows(2).map(|pair| (pair[0], pair[1])));
        self.routes.push(route);
    }

    fn neighbours(&self, left: bool) -> Vec<Vec<usize>> {
        let mut neighbours = vec![Vec::new(); self.slots.len()];
        for &(a, b) in &self.links {
            let (of, neighbour) = if left { (b, a) } else { (a, b) };
            neighbours[of].push(neighbour);
        }
        neighbours
    }

    /// Fewer crossings: each layer is sorted by the mean position of its neighbours, forwards and backwards, then
    /// neighbours change places where that helps; the best order that was seen is kept.
    fn sort_layers(&mut self) {
        let (left, right) = (self.neighbours(true), self.neighbours(false));
        let layers = self.order.len();
        let mut best = (self.crossings(), self.order.clone());
        for sweep in 0..SWEEPS {
            let forwards = sweep % 2 == 0;
            for step in 1..layers {
                let layer = if forwards { step } else { layers - 1 - step };
                let position = self.positions();
                let around = if forwards { &left } else { &right };
                let mean = |slot: usize| mean(around[slot].iter().map(|n| position[*n])).unwrap_or(position[slot]);
                self.order[layer].sort_by(|a, b| mean(*a).total_cmp(&mean(*b)));
            }
            self.transpose(&left, &right);
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.order.clone());
            }
        }
        self.order = best.1;
    }

    /// Place of every slot in its layer.
    fn positions(&self) -> Vec<f64> {
        let mut position = vec![0.0; self.slots.len()];
        for order in &self.order {
            order.iter().enumerate().for_each(|(place, slot)| position[*slot] = place as f64);
        }
        position
    }

    /// Swaps vertical neighbours whose links cross less often the other way round.
    fn transpose(&mut self, left: &[Vec<usize>], right: &[Vec<usize>]) {
        for layer in 0..self.order.len() {
            let position = self.positions();
            let crossed = |upper: usize, lower: usize| {
                let one = |around: &[Vec<usize>]| {
                    let pairs = around[upper].iter().flat_map(|a| around[lower].iter().map(move |b| (a, b)));
                    pairs.filter(|(a, b)| position[**a] > position[**b]).count()
                };
                one(left) + one(right)
            };
            let order = &mut self.order[layer];
            for place in 1..order.len() {
                if crossed(order[place - 1], order[place]) > crossed(order[place], order[place - 1]) {
                    order.swap(place - 1, place);
                }
            }
        }
    }

    /// Number of pairs of links that cross.
    fn crossings(&self) -> usize {
        let position = self.positions();
        let mut count = 0;
        for (i, &(a, b)) in self.links.iter().enumerate() {
            let same_layer = self.links[..i].iter().filter(|(c, _)| self.layer[*c] == self.layer[a]);
            count +=
                same_layer.filter(|(c, d)| (position[a] - position[*c]) * (position[b] - position[*d]) < 0.0).count();
        }
        count
    }

    /// Vertical places: as near to the mean of the neighbours as the order and the heights allow.
    fn place(&mut self) {
        self.y = vec![0.0; self.slots.len()];
        for order in self.order.clone() {
            let desired = vec![0.0; order.len()];
            self.settle(&order, &desired);
        }
        let (left, right) = (self.neighbours(true), self.neighbours(false));
        for sweep in 0..8 {
            let forwards = sweep % 2 == 1;
            let layers: Vec<usize> =
                if forwards { (0..self.order.len()).collect() } else { (0..self.order.len()).rev().collect() };
            for layer in layers {
                let order = self.order[layer].clone();
                let around = if forwards { &left } else { &right };
                let desired: Vec<f64> =
                    order.iter().map(|s| mean(around[*s].iter().map(|n| self.y[*n])).unwrap_or(self.y[*s])).collect();
                self.settle(&order, &desired);
            }
        }
        let top =
            (0..self.slots.len()).map(|slot| self.y[slot] - self.extent(slot) / 2.0).fold(f64::INFINITY, f64::min);
        if top.is_finite() {
            self.y.iter_mut().for_each(|y| *y -= top);
        }
    }

    /// The places nearest to `desired` (in squares) that keep the order and the distances: isotonic regression by
    /// pooling adjacent violators, after the least distances have been taken out.
    fn settle(&mut self, order: &[usize], desired: &[f64]) {
        let mut offset = 0.0;
        let mut offsets = Vec::with_capacity(order.len());
        for (place, slot) in order.iter().enumerate() {
            if place > 0 {
                offset += (self.extent(order[place - 1]) + self.extent(*slot)) / 2.0 + GAP_Y;
            }
            offsets.push(offset);
        }
        let mut pools: Vec<(f64, usize)> = Vec::new();
        for (wish, offset) in desired.iter().zip(&offsets) {
            let mut pool = (wish - offset, 1_usize);
            while let Some(&(value, size)) = pools.last().filter(|(value, _)| *value > pool.0) {
                pools.pop();
                let total = size + pool.1;
                pool = ((value * size as f64 + pool.0 * pool.1 as f64) / total as f64, total);
            }
            pools.push(pool);
        }
        let values = pools.into_iter().flat_map(|(value, size)| std::iter::repeat_n(value, size));
        for ((slot, value), offset) in order.iter().zip(values).zip(&offsets) {
            self.y[*slot] = value + offset;
        }
    }

    fn extent(&self, slot: usize) -> f64 {
        if self.slots[slot] == Slot::Pass { PASS } else { HEIGHT }
    }

    fn x(&self, slot: usize) -> f64 {
        self.layer[slot] as f64 * (WIDTH + GAP_X) + 2.0
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

/// Length of the longest path to each node. Nodes of a cycle keep what was known before it closed.
fn depths(nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut depth = vec![0; nodes];
    let mut open = vec![0_usize; nodes];
    edges.iter().for_each(|(_, to)| open[*to] += 1);
    let mut ready: Vec<usize> = (0..nodes).filter(|node| open[*node] == 0).collect();
    while let Some(node) = ready.pop() {
        for &(_, to) in edges.iter().filter(|(from, _)| *from == node) {
            depth[to] = depth[to].max(depth[node] + 1);
            open[to] -= 1;
            if open[to] == 0 {
                ready.push(to);
            }
        }
    }
    depth
}

#[cfg(test)]
mod tests;
