//! The figures as drawings: for each server the ratio to `bare-2pc` by number of workers, with the
//! middle half of its rounds, and the latency.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Error;
use crate::figures::Row;
use crate::report::distinct;

const SIZE: (u32, u32) = (900, 520);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Distinguishable for most people, and in the order of the alternatives.
const COLOURS: [RGBColor; 11] = [
    RGBColor(150, 150, 150),
    RGBColor(0, 0, 0),
    RGBColor(90, 90, 90),
    RGBColor(160, 80, 40),
    RGBColor(120, 94, 180),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(230, 159, 0),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
];

/// Draws all of them into a folder.
pub(crate) fn draw(folder: &Path, rows: &[Row]) -> Result<(), Error> {
    for server in distinct(rows.iter().map(|row| row.server)) {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.server == server).collect();
        let path = folder.join(format!("transfers-{server}-ratio.svg"));
        let title = format!("{server}: transfers/s, as ratio to bare-2pc");
        lines(&path, &title, &rows, false, |row| {
            [row.ratio_q1, row.ratio, row.ratio_q3]
        })?;
        let path = folder.join(format!("transfers-{server}-p99.svg"));
        let title = format!("{server}: latency in ms, p50 to p99");
        lines(&path, &title, &rows, true, |row| {
            [row.p50_ms, row.p99_ms, row.p99_ms]
        })?;
    }
    Ok(())
}

/// A line for each alternative over the numbers of workers, with a bar from the first to the third
/// value at each point and the point itself at the second.
fn lines(
    path: &Path,
    title: &str,
    rows: &[&Row],
    logarithmic: bool,
    of: fn(&Row) -> [f64; 3],
) -> Result<(), Error> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let workers = distinct(rows.iter().map(|row| row.workers));
    let values = rows.iter().flat_map(|row| of(row));
    let most = values.clone().fold(0.0, f64::max) * 1.08;
    let least = values.fold(f64::INFINITY, f64::min);
    if logarithmic {
        draw_logarithmic(&area, title, rows, &workers, (least * 0.9, most), of)?;
    } else {
        draw_linear(&area, title, rows, &workers, most, of)?;
    }
    area.present()?;
    Ok(())
}

macro_rules! drawn {
    ($name:ident($($limits:ident: $type:ty),*) $range:expr) => {
        fn $name(
            area: &Area<'_>,
            title: &str,
            rows: &[&Row],
            workers: &[usize],
            $($limits: $type,)*
            of: fn(&Row) -> [f64; 3],
        ) -> Result<(), Error> {
            let columns = f64::from(u32::try_from(workers.len())?);
            let mut chart = ChartBuilder::on(area)
                .caption(title, ("sans-serif", 20))
                .margin(12)
                .x_label_area_size(36)
                .y_label_area_size(52)
                .right_y_label_area_size(0)
                .build_cartesian_2d(-0.4..(columns - 1.0) * 1.25 + 0.4, $range)?;
            let label = |at: &f64| label_of(workers, *at);
            chart
                .configure_mesh()
                .disable_x_mesh()
                .max_light_lines(1)
                .x_labels(workers.len() * 2 + 1)
                .x_label_formatter(&label)
                .y_label_formatter(&|value| format!("{value}"))
                .x_desc("workers")
                .draw()?;
            for (index, name) in distinct(rows.iter().map(|row| row.alternative))
                .into_iter()
                .enumerate()
            {
                let colour = COLOURS[index % COLOURS.len()];
                let points: Vec<(f64, [f64; 3])> = rows
                    .iter()
                    .filter(|row| row.alternative == name)
                    .map(|row| (column(workers, row.workers, index), of(row)))
                    .collect();
                let line = points.iter().map(|(at, [_, middle, _])| (*at, *middle));
                chart
                    .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
                    .label(name)
                    .legend(move |(x, y)| {
                        PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                    });
                chart.draw_series(points.iter().map(|(at, [low, _, high])| {
                    PathElement::new([(*at, *low), (*at, *high)], colour.stroke_width(1))
                }))?;
                chart.draw_series(points.iter().map(|(at, [_, middle, _])| {
                    Circle::new((*at, *middle), 3, colour.filled())
                }))?;
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .draw()?;
            Ok(())
        }
    };
}

drawn!(draw_linear(most: f64) 0.0..most);
drawn!(draw_logarithmic(limits: (f64, f64)) (limits.0..limits.1).log_scale());

/// Beside each other, so that bars do not hide each other.
fn column(workers: &[usize], of: usize, alternative: usize) -> f64 {
    let at = workers
        .iter()
        .position(|one| *one == of)
        .unwrap_or_default();
    let at = u32::try_from(at).unwrap_or_default();
    let alternative = u32::try_from(alternative).unwrap_or_default();
    f64::from(at) + (f64::from(alternative) - 5.0) * 0.03
}

/// The number of workers under its column, and nothing in between.
fn label_of(workers: &[usize], at: f64) -> String {
    let whole = at.round();
    if (at - whole).abs() > 0.01 {
        return String::new();
    }
    workers
        .iter()
        .enumerate()
        .find(|(index, _)| u32::try_from(*index).is_ok_and(|index| f64::from(index) == whole))
        .map_or_else(String::new, |(_, workers)| workers.to_string())
}
