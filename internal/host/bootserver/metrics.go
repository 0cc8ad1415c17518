package bootserver

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// counts are what metrics count.
type counts struct{ boots, bytes, again, failed, configs, refused int64 }

// collector implements prometheus.Collector by what a server knows when it is
// asked.
type collector struct{ s *Server }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("pikelet_serve_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, to) }

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	s := c.s
	s.mu.Lock()
	n := s.counts
	booting, waiting := 0, 0
	for _, l := range s.lines[listed:] {
		booting, waiting = booting+len(l.underWay), waiting+len(l.waiting)
	}
	s.mu.Unlock()
	for _, m := range []struct {
		name, help string
		kind       prometheus.ValueType
		value      int64
	}{
		{"boots_total", "Boots whose firmware had all of kernel and initramfs.", prometheus.CounterValue, n.boots},
		{"tftp_bytes_total", "Bytes acknowledged over TFTP.", prometheus.CounterValue, n.bytes},
		{"tftp_resent_total", "TFTP packets sent more than once.", prometheus.CounterValue, n.again},
		{"tftp_failed_total", "TFTP transfers that ended before their end, and not by the client's wish.", prometheus.CounterValue, n.failed},
		{"configs_total", "Node configs given out.", prometheus.CounterValue, n.configs},
		{"configs_refused_total", "Claims of node configs that were refused.", prometheus.CounterValue, n.refused},
		{"booting", "Boots under way.", prometheus.GaugeValue, int64(booting)},
		{"waiting", "Machines that wait for their turn.", prometheus.GaugeValue, int64(waiting)},
	} {
		to <- prometheus.MustNewConstMetric(desc(m.name, m.help), m.kind, float64(m.value))
	}
	last := desc("node_last_seen_seconds", "When a machine was heard of last, Unix time.", "serial", "mac", "adopted", "stage", "release")
	for _, n := range s.Nodes() {
		to <- prometheus.MustNewConstMetric(last, prometheus.GaugeValue, float64(n.Last.Unix()),
			n.Serial, n.MAC, strconv.FormatBool(n.Adopted), n.Stage, n.Release)
	}
}

// metrics answers Prometheus.
func (a *Admin) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{a.Server})
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
