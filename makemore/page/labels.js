// The labels of words, such as a country: which there are, and how often they occur together. Nothing here
// depends on the page.

const NO_LABEL = "no label"; // the text of label 0

class Labels {
  // The columns, and the combinations of labels of the list with their counts, see data/labels.py.
  //
  // A choice has an entry for each column: null for any label, as they occur in the list, or the shares of
  // labels, [[label, share], ...], which add up to 1.
  constructor(described) {
    const { columns, rows, counts } = described ?? { columns: [], rows: [], counts: [1] };
    this.columns = columns;
    this.rows = counts.map((_, i) => rows.slice(i * columns.length, (i + 1) * columns.length));
    this.counts = counts;
    this.any = columns.map(() => null);
    let start = 0;
    this.starts = columns.map(({ values }) => (start += values.length + 1) - values.length - 1);
    this.totals = columns.map(() => new Map()); // of each label that occurs
    this.rows.forEach((row, i) =>
      row.forEach((label, k) => this.totals[k].set(label, (this.totals[k].get(label) ?? 0) + counts[i])),
    );
  }

  text(k, label) {
    return label ? this.columns[k].values[label - 1] : NO_LABEL;
  }

  // The label of a text; undefined if there is none. Upper and lower case count as equal if only one fits.
  find(k, text) {
    const { values } = this.columns[k];
    const at = values.indexOf(text);
    if (at >= 0) return at + 1;
    const same = values.flatMap((v, i) => (v.toLowerCase() === text.toLowerCase() ? [i + 1] : []));
    if (same.length === 1) return same[0];
    return text === NO_LABEL || text === "" ? 0 : undefined;
  }

  // How probable each combination is, if some columns are chosen: as in the list among the words with the
  // chosen labels; if no word has them, among all. The weights need not add up to 1.
  weights(choice) {
    const given = choice.map((shares) => shares && new Map(shares));
    const weights = this.rows.map((row, i) =>
      row.reduce((w, label, k) => (given[k] ? w * (given[k].get(label) ?? 0) : w), this.counts[i]),
    );
    return weights.some((w) => w > 0) ? weights : this.counts;
  }

  // The choice with labels in place of any, sampled by these weights.
  sample(choice, weights, random = Math.random) {
    if (!choice.includes(null)) return choice;
    const row = this.rows[pick(weights, random())];
    return choice.map((shares, k) => shares ?? [[row[k], 1]]);
  }

  // The choice with the mean of a column's labels in place of any.
  mean(choice) {
    if (!choice.includes(null)) return choice;
    const weights = this.weights(choice);
    const total = weights.reduce((a, b) => a + b);
    return choice.map((shares, k) => {
      if (shares) return shares;
      const sums = new Map();
      this.rows.forEach((row, i) => sums.set(row[k], (sums.get(row[k]) ?? 0) + weights[i] / total));
      return [...sums].filter(([, share]) => share > 0);
    });
  }

  // The rows of a choice without any in the table of all columns, with their shares.
  rowsOf(choice) {
    return choice.flatMap((shares, k) => shares.map(([label, share]) => [this.starts[k] + label, share]));
  }

  // The choice that an object describes: {gender: "F", country: {Irish: 0.7, Japanese: 0.3}}.
  choiceOf(described) {
    const names = this.columns.map(({ name }) => name);
    const strange = Object.keys(described).find((name) => !names.includes(name));
    if (strange !== undefined) throw new Error(`there is no label column ${JSON.stringify(strange)}`);
    return names.map((name, k) => {
      if (!Object.hasOwn(described, name)) return null;
      const chosen = described[name];
      const shares = Object.entries(typeof chosen === "string" ? { [chosen]: 1 } : chosen);
      const total = shares.reduce((sum, [, share]) => sum + share, 0);
      return shares.map(([text, share]) => {
        const label = this.find(k, text);
        if (label === undefined) throw new Error(`there is no label ${JSON.stringify(text)} in ${name}`);
        return [label, share / total];
      });
    });
  }
}
