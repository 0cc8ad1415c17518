package script

import (
	"slices"
	"strconv"
	"strings"
)

func (c *call) sort() int {
	f, names := c.flags("urnko:t:", "unique=u", "reverse=r")
	if f.has('k') || f.has('t') {
		c.refuse(Unsupported, "sorting by a key")
	}
	all, status := c.texts(names)
	var list []string
	for _, b := range all {
		list = append(list, lines(b)...)
	}
	c.effort(32 * len(list))
	number := func(s string) float64 {
		s = strings.TrimLeft(s, " \t")
		end := 0
		for end < len(s) && (s[end] >= '0' && s[end] <= '9' || s[end] == '.' || end == 0 && s[end] == '-') {
			end++
		}
		n, _ := strconv.ParseFloat(s[:end], 64)
		return n
	}
	slices.SortStableFunc(list, func(a, b string) int {
		d := 0
		if f.has('n') {
			x, y := number(a), number(b)
			switch {
			case x < y:
				d = -1
			case x > y:
				d = 1
			}
			if d == 0 && !f.has('u') {
				d = strings.Compare(a, b)
			}
		} else {
			d = strings.Compare(a, b)
		}
		if f.has('r') {
			d = -d
		}
		return d
	})
	if f.has('u') {
		list = slices.CompactFunc(list, func(a, b string) bool { return a == b || f.has('n') && number(a) == number(b) })
	}
	text := ""
	if len(list) > 0 {
		text = strings.Join(list, "\n") + "\n"
	}
	if to := f.last('o', ""); to != "" {
		if err := c.replace(to, []byte(text)); err != nil {
			return c.fail("%s: %v", to, err)
		}
		return status
	}
	c.write([]byte(text))
	return status
}

func (c *call) uniq() int {
	f, names := c.flags("cdu")
	if len(names) > 1 {
		c.refuse(Unsupported, "an output file")
	}
	all, status := c.texts(names)
	for _, b := range all {
		list := lines(b)
		for i := 0; i < len(list); {
			n := 1
			for i+n < len(list) && list[i+n] == list[i] {
				n++
			}
			if !(f.has('d') && n == 1) && !(f.has('u') && n > 1) {
				if f.has('c') {
					c.print("%7d ", n)
				}
				c.print("%s\n", list[i])
			}
			i += n
		}
	}
	return status
}
