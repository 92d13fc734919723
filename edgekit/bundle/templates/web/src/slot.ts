// One of the two image slots of the page: a file by drop or choice, its crop, its patch colours, its saliency.

import { decode } from './decode';
import { drawPicture, drawSaliency } from './draw';
import type { Outputs } from './engine';
import type { Picture } from './resample';

export class Slot {
  source: Picture | undefined; // at full size
  crop: Picture | undefined; // what the model sees
  outputs: Outputs | undefined;
  private readonly root: HTMLElement;

  /** `onFile` gets what is to be done when the user gives a file: decoding it, which may throw. */
  constructor(parent: HTMLElement, private readonly letter: string, onFile: (decoding: () => Promise<void>) => void) {
    const template = document.querySelector<HTMLTemplateElement>('#slot')!;
    this.root = template.content.firstElementChild!.cloneNode(true) as HTMLElement;
    parent.append(this.root);
    const input = this.find<HTMLInputElement>('input');
    input.id = `input-${letter.toLowerCase()}`;
    input.setAttribute('aria-label', `Image ${letter}: choose a file`);
    this.prompt = `Image ${letter}: drop or choose`;

    const take = (file: File | undefined) => {
      if (file) onFile(async () => this.show(await decode(file, file.name), file.name));
    };
    input.onchange = () => take(input.files?.[0]);
    const drop = this.find<HTMLElement>('.drop');
    drop.ondragover = (event) => {
      event.preventDefault();
      drop.classList.add('over');
    };
    drop.ondragleave = () => drop.classList.remove('over');
    drop.ondrop = (event) => {
      event.preventDefault();
      drop.classList.remove('over');
      take(event.dataTransfer?.files[0]);
    };
  }

  /** Take a picture as the one to compare. */
  show(picture: Picture, name: string): void {
    this.source = picture;
    this.outputs = undefined;
    this.prompt = `${this.letter}: ${name}`;
  }

  drawCrop(crop: Picture): void {
    this.crop = crop;
    drawPicture(this.find('.photo'), crop);
  }

  drawPatches(colours: Uint8ClampedArray, columns: number): void {
    const canvas = this.find<HTMLCanvasElement>('.patches');
    drawPicture(canvas, { width: columns, height: colours.length / 3 / columns, data: colours });
    canvas.setAttribute('aria-label', `Patch features of image ${this.letter} as colours`);
  }

  /** Only models with that output have it; without, the figure stays hidden. */
  drawSaliency(saliency: Float32Array | undefined): void {
    const canvas = this.find<HTMLCanvasElement>('.saliency');
    canvas.parentElement!.hidden = saliency === undefined;
    if (saliency === undefined || !this.crop) return;
    drawSaliency(canvas, this.crop, saliency);
    canvas.setAttribute('aria-label', `What draws the eye in image ${this.letter}`);
  }

  private set prompt(text: string) {
    this.find('.prompt').textContent = text;
  }

  private find<T extends HTMLElement>(selector: string): T {
    return this.root.querySelector<T>(selector)!;
  }
}
