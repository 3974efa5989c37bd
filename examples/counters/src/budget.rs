//! The budget: bounds that figures must keep.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::record::Record;

/// The bars, as `budget.json` has them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    bars: Vec<Bar>,
}

/// A bound on one figure of some configurations.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bar {
    /// What it is for, for whoever breaks it.
    why: String,
    /// Of which configurations: by the name of a figure.
    #[serde(default)]
    when: BTreeMap<String, Condition>,
    /// The figure, by name; parts joined by dots.
    metric: String,
    /// The least it may be.
    min: Option<f64>,
    /// The most it may be.
    max: Option<f64>,
}

/// What a figure must be for a bar to apply.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Condition {
    OneOf(Vec<Value>),
    Within(Within),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Within {
    min: Option<f64>,
    max: Option<f64>,
}

/// Smallest difference that counts: ratios are rounded.
const ROUNDING: f64 = 1e-9;

impl Budget {
    /// Reads a budget.
    pub fn read(json: &str) -> Result<Budget> {
        let budget: Budget = serde_json::from_str(json)?;
        for bar in &budget.bars {
            if bar.min.is_none() && bar.max.is_none() {
                anyhow::bail!("the bar on {} has neither `min` nor `max`", bar.metric);
            }
        }
        Ok(budget)
    }

    /// A line for each breach; with `whole`, also for each bar that no configuration came under.
    pub fn breaches(&self, records: &[(String, Record)], whole: bool) -> Result<Vec<String>> {
        let mut breaches = Vec::new();
        let mut used = vec![false; self.bars.len()];
        for (config, record) in records {
            let json = serde_json::to_value(record).context("a record as JSON")?;
            for (bar, used) in self.bars.iter().zip(&mut used) {
                if bar.applies(&json)? {
                    *used = true;
                    breaches.extend(bar.breach(&json).map(|breach| {
                        format!("{config} on {}: {breach} ({})", record.device, bar.why)
                    }));
                }
            }
        }
        for (bar, _) in self
            .bars
            .iter()
            .zip(used)
            .filter(|(_, used)| whole && !used)
        {
            breaches.push(format!(
                "no configuration comes under the bar on {} ({})",
                bar.metric, bar.why
            ));
        }
        Ok(breaches)
    }

    /// How many bars there are.
    pub fn len(&self) -> usize {
        self.bars.len()
    }
}

/// A figure by its name, parts joined by dots.
fn figure<'r>(record: &'r Value, name: &str) -> Option<&'r Value> {
    name.split('.').try_fold(record, |at, part| at.get(part))
}

impl Bar {
    fn applies(&self, record: &Value) -> Result<bool> {
        for (name, condition) in &self.when {
            let value = figure(record, name)
                .with_context(|| format!("the bar on {}: no figure `{name}`", self.metric))?;
            let met = match condition {
                Condition::OneOf(values) => values.contains(value),
                Condition::Within(within) => value.as_f64().is_some_and(|value| {
                    within.min.is_none_or(|min| value >= min)
                        && within.max.is_none_or(|max| value <= max)
                }),
            };
            if !met {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is wrong, if anything is.
    fn breach(&self, record: &Value) -> Option<String> {
        let metric = &self.metric;
        let Some(found) = figure(record, metric).and_then(Value::as_f64) else {
            return Some(format!("{metric} is not known"));
        };
        // What is close to a bound is shown as finely as it takes.
        let shown = |value: f64| {
            let text = format!("{value:.3}");
            let text = text.trim_end_matches('0').trim_end_matches('.');
            text.to_owned()
        };
        let below = self.min.filter(|min| found < min - ROUNDING);
        let above = self.max.filter(|max| found > max + ROUNDING);
        below
            .map(|min| {
                format!(
                    "{metric} is {}, budget at least {}",
                    shown(found),
                    shown(min)
                )
            })
            .or_else(|| {
                above.map(|max| {
                    format!(
                        "{metric} is {}, budget at most {}",
                        shown(found),
                        shown(max)
                    )
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    fn breaches(bars: &str, whole: bool) -> Vec<String> {
        let budget = Budget::read(&format!(r#"{{"bars": [{bars}]}}"#)).unwrap();
        let records = [("decode".to_string(), record())];
        budget.breaches(&records, whole).unwrap()
    }

    #[test]
    fn a_breach_names_configuration_figure_budget_and_finding() {
        assert_eq!(
            breaches(r#"{"why": "w", "metric": "sector_ratio", "max": 1}"#, true),
            ["decode on h100: sector_ratio is 1.25, budget at most 1 (w)"]
        );
        assert_eq!(
            breaches(
                r#"{"why": "w", "metric": "machine.sm_90.registers", "min": 104}"#,
                true
            ),
            ["decode on h100: machine.sm_90.registers is 103, budget at least 104 (w)"]
        );
        assert!(
            breaches(
                r#"{"why": "w", "metric": "sector_ratio", "min": 1.25, "max": 1.25}"#,
                true
            )
            .is_empty()
        );
    }

    #[test]
    fn what_is_not_known_is_no_success() {
        assert_eq!(
            breaches(
                r#"{"why": "w", "metric": "machine.sm_80.instructions", "max": 9}"#,
                true
            ),
            ["decode on h100: machine.sm_80.instructions is not known (w)"]
        );
    }

    #[test]
    fn a_bar_is_of_some_configurations() {
        let bar = |when: &str| {
            format!(r#"{{"why": "w", "when": {{{when}}}, "metric": "sector_ratio", "max": 1}}"#)
        };
        for (when, applies) in [
            (
                r#""op": ["decode", "step"], "group_size": {"max": 4}"#,
                true,
            ),
            (r#""op": ["step"]"#, false),
            (r#""group_size": {"min": 5}"#, false),
            (r#""planned": [false], "head_dim": [64, 128]"#, true),
        ] {
            assert_eq!(
                breaches(&bar(when), false).len(),
                usize::from(applies),
                "{when}"
            );
        }
        let unused = breaches(&bar(r#""op": ["step"]"#), true);
        assert_eq!(
            unused,
            ["no configuration comes under the bar on sector_ratio (w)"]
        );
    }

    #[test]
    fn mistakes_in_a_budget_are_errors() {
        for (bars, wrong) in [
            (r#"{"why": "w", "metric": "x"}"#, "neither"),
            (r#"{"why": "w", "metric": "x", "maximum": 1}"#, "maximum"),
            (
                r#"{"why": "w", "metric": "x", "max": 1, "when": {"op": {"least": 1}}}"#,
                "match",
            ),
        ] {
            let error = Budget::read(&format!(r#"{{"bars": [{bars}]}}"#)).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
        let budget = Budget::read(
            r#"{"bars": [{"why": "w", "metric": "x", "max": 1, "when": {"typo": [1]}}]}"#,
        );
        let error = budget
            .unwrap()
            .breaches(&[("decode".into(), record())], false)
            .unwrap_err();
        assert!(error.to_string().contains("typo"), "{error}");
    }

    #[test]
    fn the_committed_budget_reads() {
        assert!(Budget::read(crate::BUDGET).unwrap().len() > 5);
    }
}
