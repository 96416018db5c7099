//! The two charts of a comparison, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{measure::Outcome, report::Report};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const INK: RGBColor = RGBColor(34, 40, 49);
const GREY: RGBColor = RGBColor(118, 126, 138);
const GRID: RGBColor = RGBColor(226, 230, 236);

/// Halley stands out, the floor is dark, peers are told apart.
fn colour(name: &str) -> RGBColor {
    match name {
        "halley" => RGBColor(214, 72, 35),
        "halley ws" => RGBColor(232, 127, 82),
        "halley 250ms" => RGBColor(240, 173, 128),
        name if name.starts_with("floor") => RGBColor(92, 101, 115),
        "nchan" => RGBColor(35, 122, 87),
        "mosquitto" => RGBColor(92, 72, 150),
        "nats" => RGBColor(32, 110, 178),
        _ => RGBColor(150, 118, 20),
    }
}

/// CPU per delivery in the canonical room: a bar each, with its interval.
pub(crate) fn cpu(report: &Report, file: &Path) -> Result<()> {
    let bars: Vec<_> =
        report.systems.iter().filter_map(|system| Some((system.name, report.cpu(system.name)?))).collect();
    let (width, row, top, left) = (860_u32, 38_i32, 78_i32, 150_i32);
    let height = top + row * bars.len() as i32 + 44;
    let root = SVGBackend::new(file, (width, height as u32)).into_drawing_area();
    let area = root.clone();
    draw(area.fill(&WHITE))?;
    title(&area, "CPU per delivery", &subtitle(report))?;
    let longest = bars.iter().map(|(_, median)| median.high).fold(1.0, f64::max);
    let scale = f64::from(width as i32 - left - 110) / longest;
    let x = |value: f64| left + (value * scale) as i32;
    for (n, (name, median)) in bars.iter().enumerate() {
        let y = top + row * n as i32;
        let middle = y + row / 2;
        text(&area, name, (left - 12, middle), 15, INK, HPos::Right)?;
        let bar = [(left, y + 7), (x(median.value), y + row - 7)];
        draw(area.draw(&Rectangle::new(bar, colour(name).filled())))?;
        let whisker = [(x(median.low), middle), (x(median.high), middle)];
        draw(area.draw(&PathElement::new(whisker, INK.stroke_width(2))))?;
        for end in whisker {
            draw(
                area.draw(&PathElement::new([(end.0, middle - 4), (end.0, middle + 4)], INK.stroke_width(2))),
            )?;
        }
        let label = format!("{:.2} µs", median.value);
        text(&area, &label, (x(median.high) + 10, middle), 15, INK, HPos::Left)?;
    }
    let words =
        "whole server, every process, user and kernel; bar: median of the rounds, whisker: its 95 % interval";
    text(&area, words, (left, height - 22), 12, GREY, HPos::Left)?;
    draw(root.present())
}

/// Deliveries a second against p50, p99 and p99.9: a panel each, a line per system.
pub(crate) fn latency(report: &Report, file: &Path) -> Result<()> {
    type Value = fn(&Outcome) -> f64;
    let panels: [(&str, Value); 3] =
        [("p50", |run| run.p50_ms), ("p99", |run| run.p99_ms), ("p99.9", |run| run.p999_ms)];
    let root = SVGBackend::new(file, (1080, 480)).into_drawing_area();
    draw(root.fill(&WHITE))?;
    title(&root, "Rate against latency", &subtitle(report))?;
    legend(report, &root)?;
    let plots = root.margin(100, 10, 10, 10).split_evenly((1, panels.len()));
    let per_second = |run: &Outcome| run.load.rate * run.load.members as f64 / 1000.0;
    let rates = report.sweep.iter().map(per_second);
    let (low, high) = (rates.clone().fold(f64::MAX, f64::min), rates.fold(1.0, f64::max));
    let slowest = report.sweep.iter().map(|run| run.p999_ms).fold(10.0, f64::max);
    for (plot, (name, value)) in plots.iter().zip(panels) {
        let mut chart = ChartBuilder::on(plot)
            .caption(name, ("sans-serif", 16).into_font().color(&INK))
            .margin(6)
            .x_label_area_size(38)
            .y_label_area_size(50)
            .build_cartesian_2d((low..high * 1.1).log_scale(), (0.5..slowest * 1.3).log_scale())
            .map_err(|error| anyhow!("chart: {error}"))?;
        draw(
            chart
                .configure_mesh()
                .light_line_style(WHITE)
                .bold_line_style(GRID)
                .axis_style(GREY)
                .label_style(("sans-serif", 12).into_font().color(&GREY))
                .x_desc("thousand deliveries a second")
                .y_desc("ms")
                .x_label_formatter(&|value| one_two_five(*value))
                .y_label_formatter(&|value| {
                    if *value < 1.0 { format!("{value:.1}") } else { format!("{value:.0}") }
                })
                .draw(),
        )?;
        for system in &report.systems {
            let runs = report.sweep.iter().filter(|run| run.system == system.name);
            let points: Vec<(f64, f64)> = runs.map(|run| (per_second(run), value(run).max(0.5))).collect();
            let colour = colour(system.name);
            draw(
                chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2))).map(drop),
            )?;
            let dots = points.into_iter().map(|point| Circle::new(point, 3, colour.filled()));
            draw(chart.draw_series(dots).map(drop))?;
        }
    }
    draw(root.present())
}

/// 10, 20, 50, 100, …; nothing for the values between, whose labels would overlap.
fn one_two_five(value: f64) -> String {
    let text = format!("{value:.0}");
    if matches!(text.trim_end_matches('0'), "1" | "2" | "5") { text } else { String::new() }
}

fn subtitle(report: &Report) -> String {
    let load = report.load;
    format!(
        "{} clients in one room, messages of {} B; server on one core, clients on the other; {}, {}",
        load.members,
        load.size,
        report.environment.cpu,
        report.environment.date.get(..10).unwrap_or_default(),
    )
}

fn title(area: &Area<'_>, words: &str, below: &str) -> Result<()> {
    text(area, words, (20, 26), 22, INK, HPos::Left)?;
    text(area, below, (20, 50), 13, GREY, HPos::Left)
}

fn legend(report: &Report, area: &Area<'_>) -> Result<()> {
    let mut x = 24;
    for system in &report.systems {
        if report.sweep.iter().any(|run| run.system == system.name) {
            draw(area.draw(&Circle::new((x, 78), 5, colour(system.name).filled())))?;
            text(area, system.name, (x + 12, 78), 14, INK, HPos::Left)?;
            x += 44 + 8 * system.name.len() as i32;
        }
    }
    Ok(())
}

fn text(
    area: &Area<'_>,
    words: &str,
    at: (i32, i32),
    size: i32,
    colour: RGBColor,
    anchor: HPos,
) -> Result<()> {
    let style = ("sans-serif", size).into_font().color(&colour).pos(Pos::new(anchor, VPos::Center));
    draw(area.draw(&Text::new(words.to_owned(), at, style)))
}

/// plotters' errors cannot leave the function that owns the backend.
fn draw<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("chart: {error}"))
}
