// Command diagram draws docs/architecture.txt as an SVG, the same bytes every
// time. It reads standard input and writes standard output.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"html"
	"io"
	"os"
	"strings"
)

func main() {
	if err := draw(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "diagram:", err)
		os.Exit(1)
	}
}

// Measures, in the SVG's units.
const (
	boxWidth, boxHeight     = 172, 46
	columnPitch, rowPitch   = 200, 84
	margin, laneHead, laneX = 14, 34, 18
)

// box is one box, by its upper left corner.
type box struct {
	x, y        int
	title, note string
}

// lane is one band, by its upper edge.
type lane struct {
	title string
	y     int
	rows  int
}

// drawing is what a source describes.
type drawing struct {
	lanes  []lane
	boxes  map[string]box
	names  []string // of boxes, as they were declared
	arrows [][2]string
	width  int
}

// draw reads a source and writes the SVG.
func draw(r io.Reader, w io.Writer) error {
	d := &drawing{boxes: map[string]box{}}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := d.line(line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	var b bytes.Buffer
	d.svg(&b)
	_, err := w.Write(b.Bytes())
	return err
}

// line takes one line of the source.
func (d *drawing) line(line string) error {
	kind, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch kind {
	case "lane":
		d.lanes = append(d.lanes, lane{rest, d.bottom() + margin, 1})
	case "box":
		var name string
		var row, column int
		if _, err := fmt.Sscan(rest, &name, &row, &column); err != nil || len(d.lanes) == 0 {
			return fmt.Errorf("invalid box %q: want NAME ROW COLUMN TITLE | NOTE below a lane", rest)
		}
		fields := strings.Fields(rest)
		title, note, _ := strings.Cut(strings.Join(fields[3:], " "), " | ")
		l := &d.lanes[len(d.lanes)-1]
		l.rows = max(l.rows, row+1)
		d.boxes[name] = box{laneX + margin + column*columnPitch, l.y + laneHead + row*rowPitch, title, note}
		d.names = append(d.names, name)
		d.width = max(d.width, laneX+margin+column*columnPitch+boxWidth+margin)
	case "arrow":
		from, to, _ := strings.Cut(rest, " ")
		for _, name := range []string{from, to} {
			if _, known := d.boxes[name]; !known {
				return fmt.Errorf("unknown box %q", name)
			}
		}
		d.arrows = append(d.arrows, [2]string{from, to})
	default:
		return fmt.Errorf("unknown word %q: want lane, box or arrow", kind)
	}
	return nil
}

// bottom returns where the last lane ends.
func (d *drawing) bottom() int {
	if len(d.lanes) == 0 {
		return 0
	}
	l := d.lanes[len(d.lanes)-1]
	return l.y + laneHead + (l.rows-1)*rowPitch + boxHeight + margin
}

func (d *drawing) svg(w io.Writer) {
	width, height := d.width+laneX, d.bottom()+margin
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif">`+"\n",
		width, height, width, height)
	fmt.Fprint(w, `<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">`+
		`<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>`+"\n")
	fmt.Fprintf(w, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	for _, l := range d.lanes {
		high := laneHead + (l.rows-1)*rowPitch + boxHeight + margin
		fmt.Fprintf(w, `<rect x="%d" y="%d" width="%d" height="%d" rx="8" fill="#f4f4f0"/>`+"\n", laneX, l.y, d.width-laneX, high)
		fmt.Fprintf(w, `<text x="%d" y="%d" font-size="13" font-weight="bold" fill="#444">%s</text>`+"\n",
			laneX+margin, l.y+21, html.EscapeString(l.title))
	}
	for _, a := range d.arrows {
		fmt.Fprintf(w, `<path d="%s" fill="none" stroke="#555" marker-end="url(#tip)"/>`+"\n", path(d.boxes[a[0]], d.boxes[a[1]]))
	}
	for _, name := range d.names {
		b := d.boxes[name]
		fmt.Fprintf(w, `<rect x="%d" y="%d" width="%d" height="%d" rx="5" fill="#fff" stroke="#888"/>`+"\n", b.x, b.y, boxWidth, boxHeight)
		middle := b.x + boxWidth/2
		fmt.Fprintf(w, `<text x="%d" y="%d" font-size="13" text-anchor="middle" fill="#111">%s</text>`+"\n",
			middle, b.y+20, html.EscapeString(b.title))
		fmt.Fprintf(w, `<text x="%d" y="%d" font-size="10" text-anchor="middle" fill="#666">%s</text>`+"\n",
			middle, b.y+36, html.EscapeString(b.note))
	}
	fmt.Fprintln(w, "</svg>")
}

// path returns the line from one box to another: straight within a row, else
// down, across between the rows, and down again.
func path(from, to box) string {
	if from.y == to.y && from.x < to.x {
		return fmt.Sprintf("M%d %dH%d", from.x+boxWidth, from.y+boxHeight/2, to.x)
	}
	if from.y == to.y {
		return fmt.Sprintf("M%d %dH%d", from.x, from.y+boxHeight/2, to.x+boxWidth)
	}
	x, end := from.x+boxWidth/2, to.x+boxWidth/2
	if x == end {
		return fmt.Sprintf("M%d %dV%d", x, from.y+boxHeight, to.y)
	}
	turn := to.y - 17
	return fmt.Sprintf("M%d %dV%dH%dV%d", x, from.y+boxHeight, turn, end, to.y)
}
