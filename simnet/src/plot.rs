//! A run as a picture: completion over time, and how busy links were.
//!
//! Owns the layout and the words of the picture; everything it draws was counted by the fleet. Only
//! lines, boxes and texts, so that the SVG needs no font to be made and any viewer shows it.

#![expect(clippy::float_arithmetic, reason = "coordinates; nothing simulated depends on them")]

use core::time::Duration;

use p2p_core::{ByteRate, Instant};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::fleet::{Outcome, Record};
use crate::network::{LINK_CLASSES, LinkClass};
use crate::report::{Summary, as_float};
use crate::scenario::Scenario;

/// Width and height in pixels, for a page of text.
const SIZE: (u32, u32) = (960, 640);

/// Points of a line. More could not be distinguished at this width.
const POINTS_MAX: usize = 240;

/// Points of a line of link use. Chunks are units, so shorter times show each chunk.
const USE_POINTS_MAX: usize = 120;

/// Two hours are read as minutes, two minutes as seconds.
const MINUTES_FROM: f64 = 600.0;

/// Left of the diagrams.
const LABELS_WIDTH: i32 = 64;

/// Above each diagram.
const LEGEND_HEIGHT: i32 = 26;
const LEGEND_MIDDLE: i32 = 13;
const LEGEND_SAMPLE: i32 = 24;
const LEGEND_STEP: usize = 260;

const BOUND_LABEL: &str = "no protocol is faster (upright)";

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const GREY: RGBColor = RGBColor(140, 140, 140);
const HOSTS: RGBColor = RGBColor(0, 90, 181);
const CHUNKS: RGBColor = RGBColor(220, 110, 0);
const RACKS: RGBColor = RGBColor(0, 130, 80);

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// The fleet did not keep what a picture shows.
    #[error("nothing was recorded; call Fleet::record before the run")]
    NothingRecorded,
    /// The drawing library refused.
    #[error("cannot draw: {reason}")]
    Drawing {
        /// What it said.
        reason: String,
    },
}

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self::Drawing { reason: error.to_string() }
    }
}

/// One line of the picture.
struct Line {
    label: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// The picture of a run as SVG.
///
/// # Errors
///
/// If the fleet did not record, or the drawing library fails.
pub fn draw(
    scenario: &Scenario,
    outcome: &Outcome,
    summary: &Summary,
) -> Result<String, PlotError> {
    let record = outcome.record.as_ref().ok_or(PlotError::NothingRecorded)?;
    let axis = TimeAxis::new(outcome.ended_at, summary.bound_s);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let body = draw_title(&area, scenario, summary)?;
        let (upper, lower) = body.split_vertically((body.dim_in_pixel().1 * 11) / 20);
        let completion = [
            Line {
                label: "hosts that have the build".to_owned(),
                colour: HOSTS,
                points: axis.scale(completed(scenario, outcome)),
            },
            Line {
                label: "chunks stored, over all hosts".to_owned(),
                colour: CHUNKS,
                points: axis.scale(stored(scenario, record, outcome.ended_at)),
            },
        ];
        draw_panel(&upper, &axis, ("share of the fleet", Some(summary.bound_s)), &completion)?;
        let links = link_lines(scenario, record, &axis, outcome.ended_at);
        draw_panel(&lower, &axis, ("share of capacity", None), &links)?;
        area.present()?;
    }
    Ok(svg)
}

/// Seconds, or minutes where seconds would be long numbers.
struct TimeAxis {
    unit: &'static str,
    seconds_per_unit: f64,
    /// In units.
    end: f64,
}

impl TimeAxis {
    fn new(ended_at: Instant, bound_s: f64) -> Self {
        let end_s = seconds(ended_at).max(bound_s).max(f64::EPSILON) * 1.02;
        let (unit, seconds_per_unit) =
            if end_s < MINUTES_FROM { ("seconds", 1.0) } else { ("minutes", 60.0) };
        Self { unit, seconds_per_unit, end: end_s / seconds_per_unit }
    }

    fn scale(&self, points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
        points.into_iter().map(|(at, share)| (at / self.seconds_per_unit, share)).collect()
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw_title<'a>(
    area: &Area<'a>,
    scenario: &Scenario,
    summary: &Summary,
) -> Result<Area<'a>, PlotError> {
    area.draw(&Text::new(title(scenario), (16, 14), (FONT, 20).into_font().color(&INK)))?;
    area.draw(&Text::new(
        subtitle(scenario, summary),
        (16, 42),
        (FONT, 14).into_font().color(&INK),
    ))?;
    Ok(area.margin(66, 4, 12, 20))
}

fn title(scenario: &Scenario) -> String {
    let racks = match scenario.racks {
        0 => String::new(),
        racks => format!(" in {racks} racks"),
    };
    format!(
        "{} hosts{racks}, {} in {} chunks, {}",
        grouped(scenario.hosts),
        size(scenario.build_size),
        grouped(scenario.chunk_count()),
        rate(scenario.host_rate),
    )
}

fn subtitle(scenario: &Scenario, summary: &Summary) -> String {
    let last = match (summary.last_s, summary.last_over_bound) {
        (Some(last), Some(ratio)) => {
            format!("last host after {}, {ratio:.2} times the bound", span(last))
        }
        _ => format!(
            "{} of {} hosts",
            grouped(u32::try_from(summary.completed).unwrap_or(u32::MAX)),
            grouped(scenario.hosts)
        ),
    };
    let racks = summary
        .rack_copies
        .map_or_else(String::new, |copies| format!("; at most {copies:.1} over a rack's uplink"));
    format!(
        "{last}; {:.2} copies out of {} at {}{racks}; seed {}",
        summary.seeder_copies,
        if scenario.seeders == 1 { "the seeder" } else { "the seeders" },
        rate(scenario.seeder_rate),
        scenario.seed,
    )
}

/// One diagram of shares over time, with the bound as an upright line where there is one.
fn draw_panel(
    area: &Area<'_>,
    axis: &TimeAxis,
    (name, bound_s): (&str, Option<f64>),
    lines: &[Line],
) -> Result<(), PlotError> {
    draw_legend(area, lines, bound_s.is_some())?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(LEGEND_HEIGHT)
        .x_label_area_size(40)
        .y_label_area_size(LABELS_WIDTH)
        .build_cartesian_2d(0.0..axis.end, 0.0..1.02)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.25))
        .axis_style(GREY)
        .x_desc(axis.unit)
        .y_desc(name)
        .x_labels(12)
        .y_labels(6)
        .x_label_formatter(&|at| label_of(*at, axis.end))
        .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
        .label_style((FONT, 13).into_font().color(&INK))
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .draw()?;
    if let Some(bound_s) = bound_s {
        let at = bound_s / axis.seconds_per_unit;
        chart.draw_series(DashedLineSeries::new([(at, 0.0), (at, 1.02)], 5, 4, INK.into()))?;
    }
    for Line { colour, points, .. } in lines {
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
    }
    Ok(())
}

/// What each line means, in a row above the diagram, where it hides nothing.
fn draw_legend(area: &Area<'_>, lines: &[Line], has_bound: bool) -> Result<(), PlotError> {
    let bound = has_bound.then_some((INK, BOUND_LABEL));
    let entries = lines.iter().map(|line| (line.colour, line.label.as_str())).chain(bound);
    for (x, (colour, label)) in (LABELS_WIDTH..).step_by(LEGEND_STEP).zip(entries) {
        let width = if label == BOUND_LABEL { 1 } else { 3 };
        let sample = [(x, LEGEND_MIDDLE), (x + LEGEND_SAMPLE, LEGEND_MIDDLE)];
        area.draw(&PathElement::new(sample, colour.stroke_width(width)))?;
        let place = (x + LEGEND_SAMPLE + 6, LEGEND_MIDDLE - 8);
        area.draw(&Text::new(label, place, (FONT, 13).into_font().color(&INK)))?;
    }
    Ok(())
}

/// Share of hosts that have the build, over seconds.
fn completed(scenario: &Scenario, outcome: &Outcome) -> Vec<(f64, f64)> {
    let mut times: Vec<Instant> = outcome.completed_at.iter().copied().flatten().collect();
    times.sort_unstable();
    let share = |count: usize| as_float(count as u64) / f64::from(scenario.hosts);
    let stride = times.len().div_ceil(POINTS_MAX).max(1);
    let mut points = vec![(0.0, 0.0)];
    let ranks = (1..=times.len()).filter(|rank| rank % stride == 0 || *rank == times.len());
    for rank in ranks {
        let at = seconds(times[rank - 1]);
        // A step: a slope would show hosts completing while nothing happened.
        points.push((at, points.last().map_or(0.0, |(_, share)| *share)));
        points.push((at, share(rank)));
    }
    points.push((seconds(outcome.ended_at), share(times.len())));
    points
}

/// Share of all wanted chunks that are stored, over seconds.
fn stored(scenario: &Scenario, record: &Record, ended_at: Instant) -> Vec<(f64, f64)> {
    let wanted = f64::from(scenario.hosts) * f64::from(scenario.chunk_count());
    let width = record.stored.width().as_secs_f64();
    let mut sum = 0;
    let mut points = vec![(0.0, 0.0)];
    for (place, [amount]) in (1_u64..).zip(record.stored.amounts()) {
        sum += amount;
        let at = (as_float(place) * width).min(seconds(ended_at));
        points.push((at, as_float(sum) / wanted));
    }
    points
}

fn link_lines(
    scenario: &Scenario,
    record: &Record,
    axis: &TimeAxis,
    ended_at: Instant,
) -> Vec<Line> {
    let seeders = if scenario.seeders == 1 {
        "uplink of the seeder, in use"
    } else {
        "uplinks of seeders, in use"
    };
    let classes = [
        (LinkClass::SeederUplink, seeders, CHUNKS),
        (LinkClass::HostUplink, "uplinks of hosts, in use", HOSTS),
        (LinkClass::RackUplink, "uplinks of racks, inward, in use", RACKS),
    ];
    let is_shown = |class: LinkClass| match class {
        // Without a rate they are as fast as all that is behind them, and always idle.
        LinkClass::RackUplink => scenario.rack_rate.is_some(),
        LinkClass::SeederUplink | LinkClass::HostUplink => true,
    };
    let shown = classes.into_iter().filter(|(class, ..)| is_shown(*class));
    let line = |(class, label, colour): (LinkClass, &str, RGBColor)| Line {
        label: label.to_owned(),
        colour,
        points: axis.scale(used(record, class, ended_at)),
    };
    shown.map(line).collect()
}

/// Share of the links of a class that are taken, over seconds: the mean over each point's time.
fn used(record: &Record, class: LinkClass, ended_at: Instant) -> Vec<(f64, f64)> {
    let busy = &record.link_use.busy;
    let links = u64::from(record.link_use.links[class as usize]);
    let end = ended_at.since(Instant::ZERO);
    let stride = busy.amounts().len().div_ceil(USE_POINTS_MAX).max(1);
    let mut begin = Duration::ZERO;
    let mut points = Vec::new();
    for group in busy.amounts().chunks(stride) {
        let group_end = begin + busy.width() * u32::try_from(group.len()).unwrap_or(u32::MAX);
        // What was ordered for the time after the end never happened.
        if group_end > end {
            break;
        }
        let nanos: u64 =
            group.iter().map(|amounts: &[u64; LINK_CLASSES]| amounts[class as usize]).sum();
        let all = as_float(links) * group_end.saturating_sub(begin).as_secs_f64() * 1e9;
        points.push((midway(begin, group_end), as_float(nanos) / all.max(1.0)));
        begin = group_end;
    }
    points
}

fn midway(begin: Duration, end: Duration) -> f64 {
    f64::midpoint(begin.as_secs_f64(), end.as_secs_f64())
}

fn label_of(at: f64, end: f64) -> String {
    let digits = if end < 2.0 { 2 } else { usize::from(end < 12.0) };
    format!("{at:.digits$}")
}

fn span(seconds: f64) -> String {
    if seconds < MINUTES_FROM {
        format!("{seconds:.1} s")
    } else {
        format!("{:.1} minutes", seconds / 60.0)
    }
}

fn size(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let (unit, name) = units.into_iter().find(|(unit, _)| bytes >= *unit).unwrap_or((1, "bytes"));
    format!("{} {name}", rounded(as_float(bytes) / as_float(unit)))
}

fn rate(rate: ByteRate) -> String {
    let bits = as_float(rate.get()) * 8.0;
    let units = [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")];
    let (unit, name) = units.into_iter().find(|(unit, _)| bits >= *unit).unwrap_or((1.0, "bit/s"));
    format!("{} {name}", rounded(bits / unit))
}

/// Two digits behind the point, without those that say nothing.
fn rounded(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Thousands apart, as people write them.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let place = |index: usize| digits.len() - index;
    digits
        .chars()
        .enumerate()
        .flat_map(|(index, digit)| {
            let comma = (index > 0 && place(index) % 3 == 0).then_some(',');
            comma.into_iter().chain([digit])
        })
        .collect()
}

fn seconds(at: Instant) -> f64 {
    at.since(Instant::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            [999, 1_000, 25_000, 1_234_567].map(grouped),
            ["999", "1,000", "25,000", "1,234,567"]
        );
        assert_eq!([2_684_354_560, 67_108_864, 100].map(size), ["2.5 GiB", "64 MiB", "100 bytes"]);
        let rates = [125_000_000, 5_000_000, 10].map(|bytes| rate(ByteRate::new(bytes).unwrap()));
        assert_eq!(rates, ["1 Gbit/s", "40 Mbit/s", "80 bit/s"]);
        assert_eq!((span(24.64), span(900.0)), ("24.6 s".to_owned(), "15.0 minutes".to_owned()));
    }
}
