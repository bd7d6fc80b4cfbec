"""Pictures and tables of graphs and runs. Views read; they never write and never steer.

`dot` writes DOT text, `graphviz` has it drawn, `tables` lays out reports for a terminal, `plain`
for everything else, and `clean` has the one function through which every text goes that a terminal
gets to see.
"""
