//! A graph that becomes another one between two items.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::instance::{Instance, Slot, State, create, drop_guarded};
use super::{Body, Plan, PlanNode};
use crate::metrics::Metrics;

impl Instance {
    /// Takes another plan on. A node keeps its state, its queue and its calls where id and type are the same in both and
    /// nothing that is loaded with the manifest differs; other parameters are changed in it. The rest is made anew.
    pub(super) fn reload(&mut self, plan: Arc<Plan>, metrics: Arc<Metrics>) {
        let before = self.plan.clone();
        let place = |edge: usize| plan.edges.iter().position(|new| *new == before.edges[edge]);
        let mut old: Vec<Option<Slot>> = Vec::with_capacity(before.nodes.len());
        let mut kept = Vec::with_capacity(plan.nodes.len());
        for node in &plan.nodes {
            let here = self.place.is_none_or(|place| node.place == place);
            kept.push(before.nodes.iter().position(|known| here && is_same(known, node)));
        }
        for index in 0..before.nodes.len() {
            if !kept.contains(&Some(index)) {
                self.leave(index);
            }
        }
        old.extend(self.slots.drain(..).map(Some));
        let mut failures = Vec::new();
        for (index, (node, kept)) in plan.nodes.iter().zip(kept).enumerate() {
            let slot = match kept.and_then(|at| old[at].take()) {
                Some(mut slot) => {
                    slot.enabled = node.enabled;
                    match (&mut slot.state, &node.body) {
                        (State::Foreign(foreign), Body::Foreign { params, .. }) => {
                            // Items of a connection that is gone wait on without being counted to one.
                            for edge in foreign.waiting().filter(|edge| place(*edge).is_none()) {
                                self.around.metrics.edges[edge].depth.fetch_sub(1, Ordering::Relaxed);
                            }
                            foreign.carry_over(params, &node.edges, place);
                        }
                        (
                            State::Native { node: runner, params },
                            Body::Native { factory, params: new, .. },
                        ) => {
                            if *params != *new {
                                *params = new.clone();
                                let changed = runner.as_mut().map(|runner| runner.set_params(new));
                                if let Some(Err(error)) = changed {
                                    failures.push((index, error));
                                }
                            }
                            if runner.is_none() {
                                *runner = create(&**factory, params).ok();
                            }
                        }
                        _ => {}
                    }
                    slot
                }
                None => {
                    let state = State::new(node, self.place).unwrap_or_else(|error| {
                        failures.push((index, error));
                        match &node.body {
                            Body::Native { params, .. } => {
                                State::Native { node: None, params: params.clone() }
                            }
                            Body::Foreign { .. } => unreachable!("a foreign node is made without running it"),
                        }
                    });
                    let key = self.next_key;
                    self.next_key += 1;
                    Slot { key, state, enabled: node.enabled, next_tick: None }
                }
            };
            self.slots.push(slot);
        }
        self.plan = plan;
        self.around.metrics = metrics;
        self.pending = self.slots.iter().map(|_| Vec::new()).collect();
        old.into_iter().for_each(drop_guarded);
        for (node, error) in failures {
            self.around.metrics.nodes[node].errors.fetch_add(1, Ordering::Relaxed);
            self.tell(node, error, None);
        }
        self.set_gate();
        for node in 0..self.slots.len() {
            self.arm_deadline(node);
        }
        self.arm_ticks();
    }
}

/// Whether the state of one may go on in the other.
fn is_same(old: &PlanNode, new: &PlanNode) -> bool {
    if old.id != new.id || old.place != new.place {
        return false;
    }
    match (&old.body, &new.body) {
        (Body::Native { spec: old, params: from, .. }, Body::Native { spec: new, params: to, .. }) => {
            let is_fixed = |name: &str| new.params.iter().any(|param| param.fixed && param.name == name);
            Arc::ptr_eq(old, new) && !from.differences(to).any(is_fixed)
        }
        (Body::Foreign { spec: old, .. }, Body::Foreign { spec: new, .. }) => Arc::ptr_eq(old, new),
        _ => false,
    }
}
